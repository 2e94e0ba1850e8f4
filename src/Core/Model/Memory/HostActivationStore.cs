using LongNet.Core.Devices;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Model.Memory;

/// <summary>
/// In the host's memory, for a model on a GPU: pinned, so that nothing waits for the copies. They are part of the GPU's
/// queue of work, in the order of the calls, so a buffer may be used again as soon as its values are taken.
/// </summary>
/// <remarks>
/// A model on the CPU has its tensors there already; they stay where they are. Copies do not overlap computation, as
/// TorchSharp has one queue.
/// </remarks>
internal sealed class HostActivationStore : IActivationStore
{
    // Pinning memory takes longer than copying it, and every step stores tensors of the same shapes.
    private readonly Dictionary<(ScalarType Type, long Elements), Stack<Tensor>> free = [];

    public void Reserve(long bytes) { }

    public IStoredActivation Store(Tensor tensor)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        Tensor values = tensor.detach();
        if (values.device_type == DeviceType.CPU)
            return new Stored(this, values.shape, values.DetachFromDisposeScope(), CPU);
        if (values.device_type != DeviceType.CUDA)
            return new Stored(
                this,
                values.shape,
                DeviceRead.ToCpu(values).reshape(-1).DetachFromDisposeScope(),
                tensor.device
            );
        Tensor buffer = Rent(values);
        buffer.copy_(values.reshape(-1), true); // The copy is not waited for.
        return new Stored(this, values.shape, buffer, tensor.device);
    }

    public void Dispose()
    {
        foreach (Tensor buffer in free.Values.SelectMany(buffers => buffers))
            buffer.Dispose();
        free.Clear();
    }

    private Tensor Rent(Tensor values)
    {
        if (free.TryGetValue((values.dtype, values.NumberOfElements), out Stack<Tensor>? buffers) && buffers.Count > 0)
            return buffers.Pop();
        using Tensor pageable = empty([values.NumberOfElements], dtype: values.dtype, device: CPU);
        return pageable.pin_memory().DetachFromDisposeScope();
    }

    private void Return(Tensor buffer)
    {
        var key = (buffer.dtype, buffer.NumberOfElements);
        if (!free.TryGetValue(key, out Stack<Tensor>? buffers))
            free[key] = buffers = new Stack<Tensor>();
        buffers.Push(buffer);
    }

    // The buffer is flat, or the tensor itself on the CPU.
    private sealed class Stored(HostActivationStore store, long[] shape, Tensor buffer, Device device)
        : IStoredActivation
    {
        private bool isGone;

        public Tensor Take()
        {
            using var noGradient = no_grad();
            using var scope = NewDisposeScope();
            Tensor taken =
                device.type == DeviceType.CPU ? buffer.alias() : buffer.to(device, non_blocking: true).view(shape);
            Dispose();
            return taken.MoveToOuterDisposeScope();
        }

        public void Dispose()
        {
            if (isGone)
                return;
            isGone = true;
            if (device.type == DeviceType.CUDA)
                store.Return(buffer);
            else
                buffer.Dispose();
        }
    }
}
