using System.Diagnostics;
using System.Runtime.InteropServices;
using LongNet.Core.Devices;
using TorchSharp;

namespace LongNet.Core.Tests.Devices;

[Trait("Category", "machine")]
public class ComputeDeviceTests
{
    private const int Block = 32 << 20;

    [Fact]
    public unsafe void PeakBytes_AfterMemoryWasFreed_StayWhatTheyWere()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Other systems do not report it.");
        long before = ComputeDevice.Cpu.PeakBytes()!.Value,
            resident = 0;
        var blocks = new List<nint>();
        // Until more is resident than ever was.
        while (resident < before + Block)
        {
            void* block = NativeMemory.Alloc(Block);
            NativeMemory.Fill(block, Block, 1);
            blocks.Add((nint)block);
            using var process = Process.GetCurrentProcess();
            resident = process.WorkingSet64;
        }

        foreach (nint block in blocks)
            NativeMemory.Free((void*)block);
        using var now = Process.GetCurrentProcess();
        // .NET reads the same number another way; the kernel counts pages of each processor apart, so both may lag by a
        // few megabytes.
        const long Lag = 8 << 20;
        Assert.InRange(ComputeDevice.Cpu.PeakBytes()!.Value, resident - Lag, now.PeakWorkingSet64 + Lag);
    }

    [Fact]
    public unsafe void AllocatedBytes_WhileMemoryIsInUse_CountIt()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Other systems do not report it.");
        // Far more than other tests of this process take or free meanwhile.
        const int Large = 1 << 30;
        long before = ComputeDevice.Cpu.AllocatedBytes()!.Value;
        void* block = NativeMemory.Alloc(Large);
        NativeMemory.Fill(block, Large, 1);
        long held = ComputeDevice.Cpu.AllocatedBytes()!.Value;
        NativeMemory.Free(block);
        Assert.InRange(held - before, Large / 2, Large * 2L);
        Assert.InRange(held - ComputeDevice.Cpu.AllocatedBytes()!.Value, Large / 2, Large * 2L);
    }

    [Fact]
    public unsafe void TrimMemory_AfterManySmallBlocksWereFreed_ReturnsThemToTheSystem()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Other systems do not report it.");
        // Blocks that glibc takes from its heap rather than mapping each; the last one keeps the heap from shrinking by
        // itself.
        const int Size = 64 << 10,
            Count = 8192;
        var blocks = new nint[Count];
        for (int i = 0; i < Count; i++)
        {
            void* block = NativeMemory.Alloc(Size);
            NativeMemory.Fill(block, Size, 1);
            blocks[i] = (nint)block;
        }

        foreach (nint block in blocks[..^1])
            NativeMemory.Free((void*)block);
        long before = ComputeDevice.Cpu.AllocatedBytes()!.Value;
        ComputeDevice.Cpu.TrimMemory();
        long returned = before - ComputeDevice.Cpu.AllocatedBytes()!.Value;
        NativeMemory.Free((void*)blocks[^1]);
        // Half, as other tests of this process allocate meanwhile.
        Assert.InRange(returned, Size * (long)Count / 2, long.MaxValue);
    }

    [Fact]
    public void Device_OfTheCpu_IsWhereTensorsAreMadeByDefault()
    {
        using torch.Tensor made = torch.zeros(1, device: ComputeDevice.Cpu.Device);
        Assert.Equal(DeviceType.CPU, made.device_type);
        // Returns at once: there is nothing to wait for.
        ComputeDevice.Cpu.Synchronize();
    }
}
