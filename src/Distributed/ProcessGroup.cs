using static TorchSharp.torch;

namespace LongNet.Distributed;

/// <summary>
/// An ordered set of ranks that communicate. Every method marked Collective must be called by all ranks of the group, in
/// the same order, with matching shapes and dtypes.
/// </summary>
/// <remarks>
/// Volume rule (P ranks): all-gather sends the own part once and receives the others' parts; reduce-scatter sends the
/// parts of the others and receives one own-sized part per other rank; all-reduce counts as reduce-scatter then
/// all-gather; broadcast sends at the root and receives elsewhere. A group of one rank counts nothing.
/// </remarks>
public abstract class ProcessGroup : IDisposable
{
    /// <summary>What the group is called in messages, e.g. "world" or "sequence".</summary>
    public abstract string Name { get; }

    /// <summary>This process's place in the group, 0 … <see cref="Size"/> − 1.</summary>
    public abstract int Rank { get; }

    /// <summary>Number of ranks in the group.</summary>
    public abstract int Size { get; }

    /// <summary>What this rank has sent and received through this group since it was made.</summary>
    public abstract CommunicationVolume Volume { get; }

    /// <summary>Concatenates every rank's equally sized tensor. Collective.</summary>
    /// <param name="input">This rank's part, any shape, contiguous; the same element count and dtype on all ranks. Not disposed.</param>
    /// <returns>[<see cref="Size"/>, …input shape], parts in rank order. Owned by the caller.</returns>
    public abstract Tensor AllGather(Tensor input);

    /// <summary>Concatenates parts of different lengths. Collective.</summary>
    /// <param name="input">This rank's part, [counts[Rank]], contiguous. Not disposed.</param>
    /// <param name="counts">Every rank's element count, the same list on all ranks; zeros allowed.</param>
    /// <returns>[Σ counts], parts in rank order. Owned by the caller.</returns>
    public abstract Tensor AllGatherUnequal(Tensor input, IReadOnlyList<long> counts);

    /// <summary>
    /// Sums equally shaped inputs over the ranks and leaves each rank its part. Sums in rank order and rounds once, with
    /// 16-bit types accumulated in float32. Collective.
    /// </summary>
    /// <param name="input">[Σ counts], contiguous; the same counts on all ranks. Not disposed.</param>
    /// <param name="counts">Every rank's part's element count; zeros allowed.</param>
    /// <returns>[counts[Rank]]: this rank's part of the sum. Owned by the caller.</returns>
    public abstract Tensor ReduceScatterUnequal(Tensor input, IReadOnlyList<long> counts, ReduceOperation operation = ReduceOperation.Sum);

    /// <summary>
    /// Reduces in place; every rank ends with the same bits. Sums in rank order, with 16-bit types accumulated in float32.
    /// Collective.
    /// </summary>
    /// <param name="tensor">Contiguous, the same shape and dtype on all ranks.</param>
    public abstract void AllReduce(Tensor tensor, ReduceOperation operation = ReduceOperation.Sum);

    /// <summary>Overwrites the tensor with the root's, in place. Collective.</summary>
    /// <param name="tensor">Contiguous, the same shape and dtype on all ranks.</param>
    /// <param name="root">Group rank whose values all ranks take.</param>
    public abstract void Broadcast(Tensor tensor, int root);

    /// <summary>Returns once every rank has called it. Collective.</summary>
    public abstract void Barrier();

    /// <summary>
    /// Makes the groups of ranks that pass the same color, ordered by key, then by rank in this group. Collective.
    /// </summary>
    /// <param name="name">What the new group is called in messages.</param>
    /// <returns>The group this rank belongs to. Owned by the caller.</returns>
    public abstract ProcessGroup Split(int color, int key, string name);

    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    protected virtual void Dispose(bool disposing)
    {
    }
}
