using static TorchSharp.torch;

namespace LongNet.Distributed.Backends.Staged;

/// <summary>
/// Host memory in which tensors of a device travel. It is kept and used again, because new pages, and for CUDA pinning
/// them, cost more than the copy. May be called from any thread.
/// </summary>
internal sealed class StagingPool : IDisposable
{
    // Free buffers that are kept; more than the collectives that a step has in flight.
    private const int Capacity = 64;

    // Elements that a buffer has at least.
    private const long LeastElements = 1024;

    private readonly Lock gate = new();

    // Oldest first.
    private readonly List<StagingBuffer> free = [];
    private bool disposed;

    /// <summary>A buffer with room for a tensor's elements. <see cref="Return"/> it once nothing uses it.</summary>
    /// <param name="tensor">On any device: its type and device are the buffer's.</param>
    /// <param name="elements">How many elements it takes.</param>
    public StagingBuffer Take(Tensor tensor, long elements)
    {
        bool pinned = tensor.device_type == TorchSharp.DeviceType.CUDA;
        long needed = Math.Max(elements, LeastElements);
        lock (gate)
        {
            StagingBuffer? best = free
            // One that would stay more than half empty is kept for a larger tensor.
            .Where(buffer => buffer.Fits(tensor.dtype, pinned, needed) && buffer.Elements <= 2 * needed)
                .MinBy(buffer => buffer.Elements);
            if (best is not null)
            {
                free.Remove(best);
                return best;
            }
        }

        return StagingBuffer.Create(tensor.dtype, pinned, needed);
    }

    /// <summary>Nothing reads or writes the buffer any more.</summary>
    public void Return(StagingBuffer buffer)
    {
        StagingBuffer? surplus = buffer;
        lock (gate)
        {
            if (!disposed)
            {
                free.Add(buffer);
                surplus = free.Count > Capacity ? free[0] : null;
                if (surplus is not null)
                    free.RemoveAt(0);
            }
        }

        surplus?.Dispose();
    }

    public void Dispose()
    {
        lock (gate)
        {
            disposed = true;
            foreach (StagingBuffer buffer in free)
                buffer.Dispose();
            free.Clear();
        }
    }
}
