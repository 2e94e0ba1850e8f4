using LongNet.Core.Devices;
using static TorchSharp.torch;

namespace LongNet.Distributed.Backends.Staged;

/// <summary>
/// A tensor of a device and its copy in host memory, of which any range can be copied either way. The one place where
/// communication reads from a device and writes to it.
/// </summary>
/// <remarks>
/// Copies block this thread. A read waits for the device's work that was started before it, and a write is done when
/// it returns, so that the buffer can be used again.
/// </remarks>
internal sealed class StagedTensor
{
    private readonly StagingPool pool;
    private readonly StagingBuffer buffer;
    private readonly Tensor device;

    /// <param name="tensor">Contiguous. Not owned: a handle to it is kept until <see cref="Release"/>.</param>
    public StagedTensor(StagingPool pool, Tensor tensor)
    {
        this.pool = pool;
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        device = tensor.detach().view(-1).DetachFromDisposeScope();
        buffer = pool.Take(tensor, device.NumberOfElements);
        Host = buffer.First(device.NumberOfElements);
    }

    /// <summary>The copy, flat, in host memory. Valid until <see cref="Release"/>.</summary>
    public Tensor Host { get; }

    /// <summary>Copies a range of elements from the device.</summary>
    public StagedTensor CopyFromDevice(long first, long count)
    {
        CopyFrom(device, first, count);
        return this;
    }

    /// <summary>Copies all elements from the device.</summary>
    public StagedTensor CopyFromDevice() => CopyFromDevice(0, Host.NumberOfElements);

    /// <summary>Copies another tensor of the device over a range of the copy.</summary>
    /// <param name="source">[count], contiguous, of any shape.</param>
    public StagedTensor CopyFromDevice(Tensor source, long first)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        if (source.NumberOfElements > 0)
            ReadDevice(source.detach().view(-1), Host.narrow(0, first, source.NumberOfElements));
        return this;
    }

    /// <summary>Copies a range of elements to the device.</summary>
    public void CopyToDevice(long first, long count)
    {
        if (count == 0)
            return;
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        device.narrow(0, first, count).copy_(Host.narrow(0, first, count));
    }

    /// <summary>Nothing uses the copy any more.</summary>
    public void Release()
    {
        device.Dispose();
        Host.Dispose();
        pool.Return(buffer);
    }

    private void CopyFrom(Tensor source, long first, long count)
    {
        if (count == 0)
            return;
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        ReadDevice(source.narrow(0, first, count), Host.narrow(0, first, count));
    }

    // Blocks until the device has computed the source and the copy is done.
    private static void ReadDevice(Tensor source, Tensor destination) => DeviceRead.Into(destination, source);
}
