using System.Diagnostics;
using System.Runtime.InteropServices;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Tests.Platform;

public class ResidentMemoryTests
{
    private const int Block = 32 << 20;

    [Fact]
    public unsafe void Peak_AfterMuchMemoryWasUsed_StayWhatTheyWereThen()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Other systems do not tell.");
        long before = ResidentMemory.Peak()!.Value,
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
        Assert.InRange(ResidentMemory.Peak()!.Value, resident - Lag, now.PeakWorkingSet64 + Lag);
    }

    [Fact]
    public unsafe void Allocated_WhileMemoryIsHeld_CountsIt()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Other systems do not tell.");
        // Far more than other tests of this process take or free meanwhile.
        const int Large = 1 << 30;
        long before = ResidentMemory.Allocated()!.Value;
        void* block = NativeMemory.Alloc(Large);
        NativeMemory.Fill(block, Large, 1);
        long held = ResidentMemory.Allocated()!.Value;
        NativeMemory.Free(block);
        Assert.InRange(held - before, Large / 2, Large * 2L);
        Assert.InRange(held - ResidentMemory.Allocated()!.Value, Large / 2, Large * 2L);
    }
}
