using LongNet.Distributed.Collectives;
using static TorchSharp.torch;

namespace LongNet.Distributed.DataParallel;

/// <summary>
/// Broadcasts many tensors as few: a model has hundreds of small ones, and each broadcast has a latency.
/// </summary>
internal static class FlatBroadcast
{
    /// <summary>Most bytes that travel as one tensor, unless a single tensor has more: 64 MiB.</summary>
    public const long DefaultBytes = 64 << 20;

    /// <summary>Gives every rank the root's values, in place. Collective.</summary>
    /// <param name="group">The ranks.</param>
    /// <param name="tensors">Contiguous; the same shapes, types and order on all ranks.</param>
    /// <param name="root">Group rank whose values all ranks take.</param>
    /// <param name="largest">Most bytes that travel as one tensor.</param>
    public static void Run(ProcessGroup group, IReadOnlyList<Tensor> tensors, int root, long largest = DefaultBytes)
    {
        ArgumentNullException.ThrowIfNull(group);
        ArgumentNullException.ThrowIfNull(tensors);
        for (int first = 0, count; first < tensors.Count; first += count)
        {
            count = Fitting(tensors, first, largest);
            Run(group, [.. tensors.Skip(first).Take(count)], root);
        }
    }

    private static void Run(ProcessGroup group, Tensor[] tensors, int root)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        if (tensors.Length == 1)
        {
            group.Broadcast(tensors[0], root);
            return;
        }

        Tensor flat = cat([.. tensors.Select(tensor => tensor.detach().view(-1))]);
        group.Broadcast(flat, root);
        if (group.Rank == root)
            return;
        long start = 0;
        foreach (Tensor tensor in tensors)
        {
            tensor.detach().view(-1).copy_(flat.narrow(0, start, tensor.NumberOfElements));
            start += tensor.NumberOfElements;
        }
    }

    // How many tensors of one type and device fit, at least one.
    private static int Fitting(IReadOnlyList<Tensor> tensors, int first, long largest)
    {
        long bytes = 0;
        int count = 0;
        while (
            first + count < tensors.Count
            && tensors[first + count].dtype == tensors[first].dtype
            && tensors[first + count].device_type == tensors[first].device_type
        )
        {
            Tensor next = tensors[first + count];
            bytes += next.NumberOfElements * next.ElementSize;
            if (count > 0 && bytes > largest)
                break;
            count++;
        }

        return count;
    }
}
