using LongNet.Core.Sequences;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// What dilated attention over tensors of one shape consists of: per branch, the kernel calls on local rows and, where
/// a segment lies on several ranks, the gather of its keys and values.
/// </summary>
internal sealed class DilatedAttentionPlan
{
    private DilatedAttentionPlan(
        AttentionPattern pattern,
        IReadOnlyList<BranchPlan> branches,
        RelativePositionBias? bias
    )
    {
        Branches = branches;
        Causal = pattern.Causal;
        MixingGradient = pattern.MixingGradient;
        Buckets = bias?.Buckets;
        BiasNeedsGradient = bias is not null && bias.Table.requires_grad;
    }

    public IReadOnlyList<BranchPlan> Branches { get; }

    public bool Causal { get; }

    public MixingGradient MixingGradient { get; }

    /// <summary>How distances share the biases of a table; null without one.</summary>
    public RelativePositionBuckets? Buckets { get; }

    /// <summary>Whether the table's gradient is wanted.</summary>
    public bool BiasNeedsGradient { get; }

    /// <summary>Makes the plan. Collective where a branch has sharded segments or there are lengths.</summary>
    /// <param name="shape">Of the local queries: [batch, length, heads, headDim].</param>
    /// <param name="pattern">What is computed.</param>
    /// <param name="sharding">Which rank holds which part of the sequence.</param>
    /// <param name="lengths">Tokens of every complete sequence, the rest being padding; null where there is
    /// none.</param>
    /// <param name="bias">Added to the logits; null for none.</param>
    /// <exception cref="UserException">A branch does not fit the shard; thrown before any collective. Or lengths differ
    /// among ranks.</exception>
    public static DilatedAttentionPlan Create(
        IReadOnlyList<long> shape,
        AttentionPattern pattern,
        ISequenceSharding sharding,
        IReadOnlyList<long>? lengths = null,
        RelativePositionBias? bias = null
    )
    {
        long batch = shape[0],
            length = shape[1],
            heads = shape[2],
            headDim = shape[3];
        SequenceShard shard = sharding.ShardOf(length);
        (long First, long Count, long Tokens)[] sequenceGroups = [.. EqualLengths(lengths, batch, shard.TotalLength)];
        var branches = new List<BranchPlan>();
        foreach (Branch requested in pattern.Schedule)
        {
            // A segment longer than the sequence is the sequence.
            Branch branch = requested with { SegmentLength = Math.Min(requested.SegmentLength, shard.TotalLength) };
            ISegmentPeers? peers = sharding.JoinSegment(branch, shard);
            // Each group has its own gather. All its sequences keep equally many rows on a rank, so the rows fit one
            // tensor.
            branches.Add(
                peers is null
                    ? new BranchPlan([.. sequenceGroups.SelectMany(LocalBlocks)], [])
                    : new BranchPlan([], [.. sequenceGroups.Select(Sharded)])
            );

            IEnumerable<RowBlock> LocalBlocks((long First, long Count, long Tokens) group)
            {
                long held = Math.Clamp(group.Tokens - shard.Range.First, 0, length);
                var range = new RowRange(group.First, group.Count, length, 0, held);
                return RowBlock.OfBranch(branch, pattern.HeadOffsets, heads, range);
            }

            ShardedSegment Sharded((long First, long Count, long Tokens) group)
            {
                var range = new RowRange(group.First, group.Count, length, 0, group.Tokens);
                return new ShardedSegment(branch, peers, pattern.HeadOffsets, heads, headDim, range);
            }
        }

        if (lengths is not null)
            Agree(lengths, pattern, sharding, shard);
        return new DilatedAttentionPlan(pattern, branches, bias);
    }

    // If the lists differed, a rank would expect other rows than its peers send. The peers of the widest segment are
    // enough to ask: they include those of every other segment.
    private static void Agree(
        IReadOnlyList<long> lengths,
        AttentionPattern pattern,
        ISequenceSharding sharding,
        SequenceShard shard
    )
    {
        Branch widest = pattern.Schedule.MaxBy(branch => branch.SegmentLength);
        widest = widest with { SegmentLength = Math.Min(widest.SegmentLength, shard.TotalLength) };
        if (sharding.JoinSegment(widest, shard) is not { } peers)
            return;
        using var scope = NewDisposeScope();
        Tensor gathered = peers
            .StartAllGather(
                tensor(lengths.ToArray(), dtype: ScalarType.Int64, device: CPU),
                [.. peers.Shards.Select(_ => (long)lengths.Count)]
            )
            .Result();
        long[][] peerLengths = [.. gathered.data<long>().ToArray().Chunk(lengths.Count)];
        for (int peer = 0; peer < peerLengths.Length; peer++)
        {
            if (!peerLengths[peer].SequenceEqual(peerLengths[0]))
            {
                throw new UserException(
                    $"lengths is [{string.Join(", ", peerLengths[0])}] where row "
                        + $"{peers.Shards[0].PositionOf(0)} lies and "
                        + $"[{string.Join(", ", peerLengths[peer])}] where row "
                        + $"{peers.Shards[peer].PositionOf(0)} lies: give every rank of a sequence the same list, "
                        + "the lengths of the whole sequences."
                );
            }
        }
    }

    // Neighbouring sequences of one length are computed together.
    private static IEnumerable<(long First, long Count, long Tokens)> EqualLengths(
        IReadOnlyList<long>? lengths,
        long batch,
        long totalLength
    )
    {
        long first = 0;
        for (long next = 1; next <= batch; next++)
        {
            if (next < batch && Length(next) == Length(first))
                continue;
            yield return (first, next - first, Length(first));
            first = next;
        }

        long Length(long sequence) => lengths is null ? totalLength : lengths[(int)sequence];
    }
}

/// <summary>One branch, with blocks or a segment for each group of sequences of equal length.</summary>
/// <param name="LocalBlocks">Rows of segments that are complete on this rank; none where segments are sharded.</param>
/// <param name="ShardedSegments">The segment that is shared with other ranks; none where segments are local.</param>
internal sealed record BranchPlan(IReadOnlyList<RowBlock> LocalBlocks, IReadOnlyList<ShardedSegment> ShardedSegments)
{
    /// <summary>
    /// The blocks whose queries attend to keys of the same block. Without a causal mask sharded segments have no such
    /// block: this rank's keys are then among the gathered ones.
    /// </summary>
    public IEnumerable<RowBlock> BlocksOfOwnKeys(bool causal) =>
        causal
            ? LocalBlocks.Concat(ShardedSegments.SelectMany(segment => segment.OwnBlocks.Select(own => own.Block)))
            : LocalBlocks;
}
