using LongNet.Core.Sequences;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Decides which keys local queries may see: at which positions of the sequence the local tokens lie, and which other
/// ranks hold tokens of the same segments. Attention asks nothing else about where the sequence lives.
/// </summary>
public interface ISequenceSharding
{
    /// <summary>The positions of the local tokens.</summary>
    /// <param name="localLength">Tokens that this rank holds.</param>
    SequenceShard ShardOf(long localLength);

    /// <summary>
    /// Joins the ranks that share this rank's segment of the branch; null where every segment is complete here.
    /// Collective over the ranks of the sequence.
    /// </summary>
    /// <param name="branch">The branch; its segments are at most as long as the sequence.</param>
    /// <param name="shard">From <see cref="ShardOf"/>.</param>
    /// <exception cref="UserException">
    /// The branch neither divides the shard nor is divided by it. Thrown alike on every rank, before any collective.
    /// </exception>
    ISegmentPeers? JoinSegment(Branch branch, SequenceShard shard);
}

/// <summary>The ranks whose shards make up one segment.</summary>
public interface ISegmentPeers
{
    /// <summary>
    /// The peers' shards, this rank's among them, in the order in which their parts are gathered. The order says
    /// nothing about their positions.
    /// </summary>
    IReadOnlyList<SequenceShard> Shards { get; }

    /// <summary>Index of this rank's shard in <see cref="Shards"/>.</summary>
    int OwnIndex { get; }

    /// <summary>Starts to concatenate the elements of all peers. Collective among the peers.</summary>
    /// <param name="rows">Own elements, [counts[OwnIndex]], contiguous; unchanged until the result is taken. Not
    /// disposed.</param>
    /// <param name="counts">Elements of every peer.</param>
    /// <returns>Becomes [Σ counts], in peer order. Owned by the caller.</returns>
    IPendingTensor StartAllGather(Tensor rows, IReadOnlyList<long> counts);

    /// <summary>
    /// Starts the transpose of <see cref="StartAllGather"/>: sums the peers' gradients of the gathered elements; each
    /// peer receives the sum for its own. Collective among the peers.
    /// </summary>
    /// <param name="gradients">[Σ counts], contiguous; unchanged until the result is taken. Not disposed.</param>
    /// <param name="counts">Elements of every peer.</param>
    /// <returns>Becomes [counts[OwnIndex]]. Owned by the caller.</returns>
    IPendingTensor StartReduceScatter(Tensor gradients, IReadOnlyList<long> counts);
}

/// <summary>The result of a collective that is in flight.</summary>
public interface IPendingTensor
{
    /// <summary>Waits for the tensor. The same tensor at every call.</summary>
    Tensor Result();
}

/// <summary>One rank that holds the complete sequence.</summary>
public sealed class UnshardedSequence : ISequenceSharding
{
    public static UnshardedSequence Instance { get; } = new();

    private UnshardedSequence() { }

    public SequenceShard ShardOf(long localLength) => SequenceShard.Complete(localLength);

    public ISegmentPeers? JoinSegment(Branch branch, SequenceShard shard) => null;
}
