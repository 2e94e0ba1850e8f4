using LongNet.Distributed.Collectives.Transport;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// The checks of arguments that every backend needs, with the same messages. What they refuse is an error in the
/// calling code, not the user's.
/// </summary>
internal static class CollectiveArguments
{
    /// <exception cref="ArgumentException">The tensor is strided, or on a device that the group does not
    /// serve.</exception>
    public static void CheckTensor(ProcessGroup group, ICommunicator communicator, string collective, Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        if (!tensor.is_contiguous() || !communicator.Supports(tensor))
        {
            throw new ArgumentException(
                $"{collective} in the group '{group.Name}' needs a contiguous {communicator.SupportedDevices} tensor, "
                    + $"not one of shape [{string.Join(", ", tensor.shape)}] "
                    + $"on {tensor.device} with strides [{string.Join(", ", tensor.stride())}].",
                nameof(tensor)
            );
        }
    }

    /// <exception cref="ArgumentException">The first dimension has not one slice per rank.</exception>
    public static void CheckSlices(ProcessGroup group, string collective, Tensor tensor)
    {
        if (tensor.dim() == 0 || tensor.size(0) != group.Size)
        {
            throw new ArgumentException(
                $"{collective} in the group '{group.Name}' needs one slice per rank, [{group.Size}, …], not "
                    + $"a tensor of shape [{string.Join(", ", tensor.shape)}].",
                nameof(tensor)
            );
        }
    }

    /// <param name="elements">Elements of the tensor.</param>
    /// <param name="holdsAllParts">Whether the tensor holds the parts of all ranks, or only this rank's.</param>
    /// <exception cref="ArgumentException">There is not one count per rank, a count is negative, or the counts do not
    /// match the tensor.</exception>
    public static void CheckCounts(
        ProcessGroup group,
        string collective,
        long elements,
        IReadOnlyList<long> counts,
        bool holdsAllParts
    )
    {
        ArgumentNullException.ThrowIfNull(counts);
        if (counts.Count != group.Size)
            throw new ArgumentException(
                $"{collective} in the group '{group.Name}' needs {group.Size} counts, one per rank, not "
                    + $"{counts.Count}.",
                nameof(counts)
            );
        long sum = 0;
        foreach (long count in counts)
        {
            if (count < 0)
                throw new ArgumentException(
                    $"{collective} in the group '{group.Name}' was given the negative count {count}.",
                    nameof(counts)
                );
            sum = checked(sum + count);
        }

        long expected = holdsAllParts ? sum : counts[group.Rank];
        if (elements != expected)
        {
            throw new ArgumentException(
                $"{collective} in the group '{group.Name}' was given {elements} elements on rank "
                    + $"{group.Rank}, but its counts say {expected}.",
                nameof(counts)
            );
        }
    }

    /// <exception cref="ArgumentOutOfRangeException">There is no such rank.</exception>
    public static void CheckRank(ProcessGroup group, string name, int rank)
    {
        if (rank < 0 || rank >= group.Size)
            throw new ArgumentOutOfRangeException(
                name,
                rank,
                $"The group '{group.Name}' has the ranks 0 to {group.Size - 1}."
            );
    }

    /// <exception cref="ArgumentOutOfRangeException">There is no such rank, or it is this one.</exception>
    public static void CheckPeer(ProcessGroup group, int peer)
    {
        CheckRank(group, nameof(peer), peer);
        if (peer == group.Rank)
            throw new ArgumentOutOfRangeException(
                nameof(peer),
                peer,
                $"Rank {peer} of the group '{group.Name}' cannot send to itself."
            );
    }

    /// <exception cref="ArgumentException">Elements of this type cannot be combined so.</exception>
    public static void CheckReduction(
        ProcessGroup group,
        string collective,
        ScalarType dtype,
        ReduceOperation operation
    )
    {
        bool possible = dtype switch
        {
            ScalarType.Float64 or ScalarType.Float32 or ScalarType.Float16 or ScalarType.BFloat16 => true,
            ScalarType.Int64 or ScalarType.Byte => operation != ReduceOperation.Average,
            ScalarType.Bool => operation is ReduceOperation.Max or ReduceOperation.Min,
            _ => false,
        };
        if (!possible)
        {
            throw new ArgumentException(
                $"{collective} in the group '{group.Name}' has no {operation} of {dtype}: floating-point "
                    + "types have all operations, Int64 and Byte all but Average, Bool Max (any) and Min (all).",
                nameof(dtype)
            );
        }
    }
}
