using LongNet.Core;
using LongNet.Core.Attention;
using LongNet.Core.Sequences;
using LongNet.Distributed.Collectives;
using static TorchSharp.torch;

namespace LongNet.Distributed.SequenceParallel;

/// <summary>
/// Sequence parallelism: every rank of the group holds one range of ℓ positions. Of a segment longer than ℓ, only the
/// kept keys and values travel, and only among the ranks that share the segment (section 3 of arXiv:2307.02486).
/// </summary>
/// <remarks>
/// Volume per layer and such branch, which does not grow with the sequence: forward, a rank contributes
/// (ℓ / r) · dModel elements of keys and as many of values, in the compute type. Backward, it contributes as many
/// gradients for each other rank of the segment, in at least float32, in which they are summed.
/// </remarks>
public sealed class AllGatherSequenceParallel : ISequenceSharding, IDisposable
{
    private readonly ProcessGroup sequence;
    private readonly Dictionary<int, ProcessGroup> segmentGroups = [];
    private SequenceLayout? layout;

    /// <param name="sequence">The ranks that share one sequence, in the layout's rank order. Not owned.</param>
    public AllGatherSequenceParallel(ProcessGroup sequence)
    {
        ArgumentNullException.ThrowIfNull(sequence);
        this.sequence = sequence;
    }

    /// <summary>The bytes that this rank sent and received for keys, values and their gradients.</summary>
    public CommunicationVolume Volume =>
        segmentGroups.Values.Aggregate(default(CommunicationVolume), (sum, group) => sum + group.Volume);

    /// <summary>
    /// The layout of a sharded sequence: one range of equal length per rank. Whoever reads data for this kind of
    /// sharding, or plans its cost, asks here. Not collective.
    /// </summary>
    /// <param name="totalLength">Tokens of the complete sequence; a multiple of <paramref name="ranks"/>.</param>
    /// <param name="ranks">Ranks that share it.</param>
    public static SequenceLayout LayoutOf(long totalLength, int ranks) => SequenceLayout.Contiguous(totalLength, ranks);

    public SequenceShard ShardOf(long localLength) => Layout(localLength * sequence.Size).ShardOf(sequence.Rank);

    /// <inheritdoc/>
    /// <remarks>Splits the sequence group the first time that a segment spans a new number of ranks.</remarks>
    public ISegmentPeers? JoinSegment(Branch branch, SequenceShard shard)
    {
        ArgumentNullException.ThrowIfNull(shard);
        if (!SegmentShardingRules.Fits(branch.SegmentLength, shard.Length, sequence.Size))
            throw new UserException(SegmentShardingRules.Explain(branch, [branch], shard.Length, sequence.Size));
        int span = checked((int)(branch.SegmentLength / shard.Length));
        if (span <= 1)
            return null;
        long segment = shard.Range.First / branch.SegmentLength;
        SequenceLayout all = Layout(shard.TotalLength);
        var positions = new PositionRange(segment * branch.SegmentLength, branch.SegmentLength);
        return new Peers(SegmentGroup(span, segment), [.. all.RanksOf(positions).Select(all.ShardOf)]);
    }

    public void Dispose()
    {
        foreach (ProcessGroup group in segmentGroups.Values)
            group.Dispose();
        segmentGroups.Clear();
    }

    // Every layer of every step asks for the same one.
    private SequenceLayout Layout(long totalLength)
    {
        if (layout?.TotalLength != totalLength)
            layout = LayoutOf(totalLength, sequence.Size);
        return layout;
    }

    // The ranks of this rank's segment, in rank order; the last segment of the sequence may have fewer than `span`.
    private ProcessGroup SegmentGroup(int span, long segment)
    {
        if (!segmentGroups.TryGetValue(span, out ProcessGroup? group))
        {
            group = sequence.Split(checked((int)segment), sequence.Rank, $"segment of {span} ranks");
            segmentGroups.Add(span, group);
        }

        return group;
    }

    private sealed class Peers(ProcessGroup group, IReadOnlyList<SequenceShard> shards) : ISegmentPeers
    {
        public IReadOnlyList<SequenceShard> Shards => shards;

        public int OwnIndex => group.Rank;

        public IPendingTensor StartAllGather(Tensor rows, IReadOnlyList<long> counts) =>
            group.StartAllGatherUneven(rows, counts);

        public IPendingTensor StartReduceScatter(Tensor gradients, IReadOnlyList<long> counts) =>
            group.StartReduceScatterUneven(gradients, counts);
    }
}
