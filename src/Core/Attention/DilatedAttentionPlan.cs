namespace LongNet.Core.Attention;

/// <summary>
/// What dilated attention over tensors of one shape consists of: per branch, the kernel calls on rows that are here and,
/// where a segment lies on several shards, the exchange of its keys and values.
/// </summary>
internal sealed class DilatedAttentionPlan
{
    private DilatedAttentionPlan(DilatedAttentionOptions options, IReadOnlyList<BranchPlan> branches, RelativePositionBuckets? buckets)
    {
        Branches = branches;
        Causal = options.Causal;
        MixingGradient = options.MixingGradient;
        Buckets = buckets;
    }

    public IReadOnlyList<BranchPlan> Branches { get; }

    public bool Causal { get; }

    public MixingGradient MixingGradient { get; }

    /// <summary>How distances share the biases of a table; null without one.</summary>
    public RelativePositionBuckets? Buckets { get; }

    /// <param name="shape">Of the queries here: [batch, length, heads, headDim].</param>
    /// <param name="options">What is computed.</param>
    /// <param name="exchange">Where the sequence lives.</param>
    /// <param name="lengths">Rows of every whole sequence, the rest being padding; null where there is none.</param>
    /// <param name="buckets">See <see cref="Buckets"/>.</param>
    /// <exception cref="UserException">A branch does not fit the shard; thrown before any exchange.</exception>
    public static DilatedAttentionPlan Create(
        IReadOnlyList<long> shape,
        DilatedAttentionOptions options,
        IKeyValueExchange exchange,
        IReadOnlyList<long>? lengths = null,
        RelativePositionBuckets? buckets = null)
    {
        long batch = shape[0], length = shape[1], heads = shape[2], headDim = shape[3];
        SequenceShard shard = exchange.Place(length);
        List<(long First, long Count, long Rows)> runs = [.. EqualLengths(lengths, batch, shard.TotalLength)];
        var branches = new List<BranchPlan>();
        foreach (Branch requested in options.Schedule)
        {
            // A segment longer than the sequence is the sequence.
            Branch branch = requested with { SegmentLength = Math.Min(requested.SegmentLength, shard.TotalLength) };
            // Each run is exchanged by itself: its sequences keep as many rows as each other on every shard.
            branches.Add(exchange.PeersOf(branch, shard) is { } peers
                ? new BranchPlan([], [.. runs.Select(run => new SharedSegment(
                    branch, peers, options.HeadOffsets, heads, headDim, new RowRange(run.First, run.Count, length, 0, run.Rows)))])
                : new BranchPlan(
                    [.. runs.SelectMany(run => RowBlock.OfBranch(
                        branch, options.HeadOffsets, heads, new RowRange(run.First, run.Count, length, 0, Math.Clamp(run.Rows - shard.FirstRow, 0, length))))],
                    []));
        }

        return new DilatedAttentionPlan(options, branches, buckets);
    }

    // Neighbouring sequences of one length are worked on together.
    private static IEnumerable<(long First, long Count, long Rows)> EqualLengths(IReadOnlyList<long>? lengths, long batch, long whole)
    {
        long first = 0;
        for (long next = 1; next <= batch; next++)
        {
            if (next < batch && Length(next) == Length(first))
                continue;
            yield return (first, next - first, Length(first));
            first = next;
        }

        long Length(long sequence) => lengths is null ? whole : lengths[(int)sequence];
    }
}

/// <summary>One branch: whole segments, or the one segment shared with other shards, for each length of sequences.</summary>
internal sealed record BranchPlan(IReadOnlyList<RowBlock> LocalBlocks, IReadOnlyList<SharedSegment> Shared);
