using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Answers "which keys may my queries see?": where the local rows lie in the whole sequence, and which other shards
/// hold rows of the same segments. Attention asks nothing else about where the sequence lives.
/// </summary>
public interface ISequenceSharding
{
    /// <summary>Places local rows in the whole sequence.</summary>
    /// <param name="localLength">Rows that this process holds.</param>
    SequenceShard ShardOf(long localLength);

    /// <summary>
    /// The shards that share this shard's segment of the branch, or null where every segment is whole here.
    /// </summary>
    /// <exception cref="UserException">
    /// The branch neither divides the shard nor is divided by it. Thrown alike on every process, before any exchange.
    /// </exception>
    ISegmentPeers? JoinSegment(Branch branch, SequenceShard shard);
}

/// <summary>The processes whose consecutive shards make up one segment.</summary>
public interface ISegmentPeers
{
    /// <summary>The peers' shards in row order, the own among them.</summary>
    IReadOnlyList<SequenceShard> Shards { get; }

    /// <summary>Index of the own shard in <see cref="Shards"/>.</summary>
    int Own { get; }

    /// <summary>Starts to concatenate every peer's rows. Collective among the peers.</summary>
    /// <param name="rows">Own elements, [counts[Own]], contiguous; unchanged until the result is taken. Not
    /// disposed.</param>
    /// <param name="counts">Elements of every peer.</param>
    /// <returns>Becomes [Σ counts], in peer order. Owned by the caller.</returns>
    IPendingTensor StartAllGather(Tensor rows, IReadOnlyList<long> counts);

    /// <summary>
    /// Starts the transpose of <see cref="StartAllGather"/>: sums every peer's gradients of the gathered rows and
    /// brings each peer the sum for its own. Collective among the peers.
    /// </summary>
    /// <param name="gradients">[Σ counts], contiguous; unchanged until the result is taken. Not disposed.</param>
    /// <param name="counts">Elements of every peer.</param>
    /// <returns>Becomes [counts[Own]]. Owned by the caller.</returns>
    IPendingTensor StartReduceScatter(Tensor gradients, IReadOnlyList<long> counts);
}

/// <summary>A tensor that is on its way here.</summary>
public interface IPendingTensor
{
    /// <summary>Waits for it. The same tensor at every call.</summary>
    Tensor Result();
}

/// <summary>The answer of one process that holds the whole sequence: every key is here.</summary>
public sealed class UnshardedSequence : ISequenceSharding
{
    public static UnshardedSequence Instance { get; } = new();

    private UnshardedSequence() { }

    public SequenceShard ShardOf(long localLength) => SequenceShard.Whole(localLength);

    public ISegmentPeers? JoinSegment(Branch branch, SequenceShard shard) => null;
}
