using LongNet.Core.Native;
using TorchSharp;

namespace LongNet.Core.Devices;

/// <summary>
/// Where a rank computes: where its tensors are made, how much memory they take there, and how to wait for the work
/// that was started.
/// </summary>
public abstract class ComputeDevice
{
    private protected ComputeDevice() { }

    /// <summary>The processors of this machine; tensors lie in the memory of the process.</summary>
    public static ComputeDevice Cpu { get; } = new CpuDevice();

    /// <summary>Where tensors are made.</summary>
    public abstract torch.Device Device { get; }

    /// <summary>
    /// Bytes that are allocated now, whether tensors use them or the allocator keeps them for the next ones; null where
    /// the system does not report it.
    /// </summary>
    public abstract long? AllocatedBytes();

    /// <summary>The most bytes that have been in use so far; null where the system does not report it.</summary>
    /// <remarks>On the CPU, the peak resident memory of the process: with .NET, and with mapped files.</remarks>
    public abstract long? PeakBytes();

    /// <summary>Returns when all work that this process has started here is done.</summary>
    public abstract void Synchronize();

    /// <summary>Returns freed memory that the allocator keeps to the system.</summary>
    public abstract void TrimMemory();

    private sealed class CpuDevice : ComputeDevice
    {
        public override torch.Device Device => torch.CPU;

        public override long? AllocatedBytes() => ResidentMemory.Allocated();

        public override long? PeakBytes() => ResidentMemory.Peak();

        // Operators on the CPU return when they are done.
        public override void Synchronize() { }

        public override void TrimMemory() => MemoryAllocator.Trim();
    }
}
