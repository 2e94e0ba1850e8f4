using LongNet.Core.Native;
using TorchSharp;

namespace LongNet.Core.Devices;

/// <summary>
/// Where a rank computes: where its tensors are made, how they get there, how much memory they take, and how to wait
/// for the work that was started.
/// </summary>
public abstract class ComputeDevice
{
    private protected ComputeDevice() { }

    /// <summary>The processors of this machine; tensors lie in the memory of the process.</summary>
    public static ComputeDevice Cpu { get; } = new CpuDevice();

    /// <summary>An NVIDIA GPU, whose context is made here.</summary>
    /// <param name="index">As in <c>cuda:index</c>.</param>
    public static ComputeDevice Cuda(int index) => new CudaComputeDevice(index);

    /// <summary>Where tensors are made.</summary>
    public abstract torch.Device Device { get; }

    /// <summary>The processor's or GPU's name, for people; null where the system does not report it.</summary>
    public abstract string? Name { get; }

    /// <summary>
    /// Whether tensors lie in the memory of the process and operators return when they are done, so that a value can be
    /// read at any time for nothing.
    /// </summary>
    public bool IsCpu => Device.type == DeviceType.CPU;

    /// <summary>
    /// Bytes that are allocated now, whether tensors use them or the allocator keeps them for the next ones; null where
    /// the system does not report it, or where nothing can be returned to it.
    /// </summary>
    public abstract long? AllocatedBytes();

    /// <summary>The most bytes that have been in use so far; null where the system does not report it.</summary>
    /// <remarks>On the CPU, the peak resident memory of the process: with .NET, and with mapped files. On a GPU, by how
    /// much its used memory has grown since the device was opened: libtorch's allocator keeps what it has taken, and
    /// other processes count too.</remarks>
    public abstract long? PeakBytes();

    /// <summary>Returns when all work that this process has started here is done.</summary>
    public abstract void Synchronize();

    /// <summary>Returns freed memory that the allocator keeps to the system.</summary>
    public abstract void TrimMemory();

    /// <summary>
    /// A copy of a tensor of the CPU on this device, or the tensor itself where that is the CPU. The copy may still be
    /// under way when this returns; operators that use it wait for it by themselves.
    /// </summary>
    /// <param name="tensor">On the CPU. Not disposed; must not be written to afterwards.</param>
    /// <returns>In the scope of the caller.</returns>
    public virtual torch.Tensor Upload(torch.Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        return IsCpu ? tensor : tensor.to(Device);
    }

    private sealed class CpuDevice : ComputeDevice
    {
        public override torch.Device Device => torch.CPU;

        public override string? Name => null;

        public override long? AllocatedBytes() => ResidentMemory.Allocated();

        public override long? PeakBytes() => ResidentMemory.Peak();

        // Operators on the CPU return when they are done.
        public override void Synchronize() { }

        public override void TrimMemory() => MemoryAllocator.Trim();
    }
}
