using LongNet.Core.Native;
using TorchSharp;

namespace LongNet.Core.Devices;

/// <summary>One NVIDIA GPU.</summary>
internal sealed class CudaComputeDevice : ComputeDevice
{
    private readonly long? usedBefore;

    /// <param name="index">As in <c>cuda:index</c>.</param>
    public CudaComputeDevice(int index)
    {
        Device = new torch.Device(DeviceType.CUDA, index);
        // The first tensor makes the GPU's context, whose memory is no tensor's.
        using (torch.NewDisposeScope())
            _ = torch.empty([1], dtype: torch.ScalarType.Float32, device: Device);
        usedBefore = CudaDevice.UsedBytes(index);
    }

    public override torch.Device Device { get; }

    public override string? Name => CudaDevice.Name(Device.index);

    // Only the host's allocator is asked to return memory to the system, and none of it is counted here.
    public override long? AllocatedBytes() => null;

    // libtorch's allocator keeps what it has once taken. Other processes on the GPU count too, if they grow.
    public override long? PeakBytes() =>
        CudaDevice.UsedBytes(Device.index) is { } used && usedBefore is { } before ? Math.Max(0, used - before) : null;

    public override void Synchronize() => torch.cuda.synchronize(Device);

    public override void TrimMemory() { }

    // From pinned memory, so that the copy runs while the GPU computes.
    public override torch.Tensor Upload(torch.Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        using torch.Tensor pinned = tensor.pin_memory();
        return pinned.to(Device, non_blocking: true);
    }
}
