using LongNet.Core;
using LongNet.Core.Attention;
using LongNet.Distributed.Collectives;
using static TorchSharp.torch;

namespace LongNet.Distributed.SequenceParallel;

/// <summary>
/// Sequence parallelism: rank p of the group holds rows p·ℓ … (p + 1)·ℓ − 1. Of a segment longer than ℓ, only the kept
/// keys and values travel, and only among the ranks that share the segment (section 3 of arXiv:2307.02486).
/// </summary>
/// <remarks>
/// Volume per layer and such branch: a rank sends (ℓ / r) · dModel elements of keys and as many of values forward, and
/// as many gradients for each other rank of the segment backward, the former in the compute type, the latter in at
/// least float32, in which they are summed. Neither grows with the sequence.
/// </remarks>
public sealed class AllGatherSequenceParallel : ISequenceSharding, IDisposable
{
    private readonly ProcessGroup sequence;
    private readonly Dictionary<int, ProcessGroup> segmentGroups = [];

    /// <param name="sequence">The ranks that share one sequence, in row order. Not owned.</param>
    public AllGatherSequenceParallel(ProcessGroup sequence)
    {
        ArgumentNullException.ThrowIfNull(sequence);
        this.sequence = sequence;
    }

    /// <summary>What this rank sent and received for keys, values and their gradients.</summary>
    public CommunicationVolume Volume =>
        segmentGroups.Values.Aggregate(default(CommunicationVolume), (sum, group) => sum + group.Volume);

    public SequenceShard ShardOf(long localLength) =>
        new(sequence.Rank * localLength, localLength, sequence.Size * localLength);

    /// <inheritdoc/>
    /// <remarks>Collective over the sequence group the first time a segment spans a new number of ranks.</remarks>
    public ISegmentPeers? JoinSegment(Branch branch, SequenceShard shard)
    {
        if (!SegmentShardingRules.Fits(branch.SegmentLength, shard.Length, sequence.Size))
            throw new UserException(SegmentShardingRules.Explain(branch, [branch], shard.Length, sequence.Size));
        int span = checked((int)(branch.SegmentLength / shard.Length));
        return span <= 1 ? null : new Peers(SegmentGroup(span), sequence.Rank / span * span, shard);
    }

    public void Dispose()
    {
        foreach (ProcessGroup group in segmentGroups.Values)
            group.Dispose();
        segmentGroups.Clear();
    }

    // The group of `span` consecutive ranks that holds this rank; the last group of the sequence may be smaller.
    private ProcessGroup SegmentGroup(int span)
    {
        if (!segmentGroups.TryGetValue(span, out ProcessGroup? group))
        {
            group = sequence.Split(sequence.Rank / span, sequence.Rank, $"segment of {span} ranks");
            segmentGroups.Add(span, group);
        }

        return group;
    }

    private sealed class Peers : ISegmentPeers
    {
        private readonly ProcessGroup group;

        public Peers(ProcessGroup group, int firstRank, SequenceShard own)
        {
            this.group = group;
            Shards =
            [
                .. Enumerable.Range(firstRank, group.Size).Select(rank => own with { FirstRow = rank * own.Length }),
            ];
        }

        public IReadOnlyList<SequenceShard> Shards { get; }

        public int Own => group.Rank;

        public IPendingTensor StartAllGather(Tensor rows, IReadOnlyList<long> counts) =>
            group.StartAllGatherUneven(rows, counts);

        public IPendingTensor StartReduceScatter(Tensor gradients, IReadOnlyList<long> counts) =>
            group.StartReduceScatterUneven(gradients, counts);
    }
}
