using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// What dilated attention over tensors of one shape consists of: per branch, the kernel calls on rows that are here
/// and, where a segment lies on several shards, the exchange of its keys and values.
/// </summary>
internal sealed class DilatedAttentionPlan
{
    private DilatedAttentionPlan(
        DilatedAttentionOptions options,
        IReadOnlyList<BranchPlan> branches,
        RelativePositionBias? bias
    )
    {
        Branches = branches;
        Causal = options.Causal;
        MixingGradient = options.MixingGradient;
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

    /// <param name="shape">Of the queries here: [batch, length, heads, headDim].</param>
    /// <param name="options">What is computed.</param>
    /// <param name="exchange">Where the sequence lives.</param>
    /// <param name="lengths">Rows of every whole sequence, the rest being padding; null where there is none.</param>
    /// <param name="bias">Added to the logits; null for none.</param>
    /// <exception cref="UserException">A branch does not fit the shard; thrown before any exchange. Or lengths differ
    /// among shards.</exception>
    public static DilatedAttentionPlan Create(
        IReadOnlyList<long> shape,
        DilatedAttentionOptions options,
        ISequenceSharding exchange,
        IReadOnlyList<long>? lengths = null,
        RelativePositionBias? bias = null
    )
    {
        long batch = shape[0],
            length = shape[1],
            heads = shape[2],
            headDim = shape[3];
        SequenceShard shard = exchange.ShardOf(length);
        List<(long First, long Count, long Rows)> runs = [.. EqualLengths(lengths, batch, shard.TotalLength)];
        var branches = new List<BranchPlan>();
        foreach (Branch requested in options.Schedule)
        {
            // A segment longer than the sequence is the sequence.
            Branch branch = requested with { SegmentLength = Math.Min(requested.SegmentLength, shard.TotalLength) };
            // Each run is exchanged by itself: its sequences keep as many rows as each other on every shard.
            branches.Add(
                exchange.JoinSegment(branch, shard) is { } peers
                    ? new BranchPlan(
                        [],
                        [
                            .. runs.Select(run => new ShardedSegment(
                                branch,
                                peers,
                                options.HeadOffsets,
                                heads,
                                headDim,
                                new RowRange(run.First, run.Count, length, 0, run.Rows)
                            )),
                        ]
                    )
                    : new BranchPlan(
                        [
                            .. runs.SelectMany(run =>
                                RowBlock.OfBranch(
                                    branch,
                                    options.HeadOffsets,
                                    heads,
                                    new RowRange(
                                        run.First,
                                        run.Count,
                                        length,
                                        0,
                                        Math.Clamp(run.Rows - shard.FirstRow, 0, length)
                                    )
                                )
                            ),
                        ],
                        []
                    )
            );
        }

        if (lengths is not null)
            Agree(lengths, options, exchange, shard);
        return new DilatedAttentionPlan(options, branches, bias);
    }

    // Each shard would expect other rows of the others than they send. The widest segment's peers include all others'.
    private static void Agree(
        IReadOnlyList<long> lengths,
        DilatedAttentionOptions options,
        ISequenceSharding exchange,
        SequenceShard shard
    )
    {
        Branch widest = options.Schedule.MaxBy(branch => branch.SegmentLength);
        if (
            exchange.JoinSegment(
                widest with
                {
                    SegmentLength = Math.Min(widest.SegmentLength, shard.TotalLength),
                },
                shard
            )
            is not { } peers
        )
            return;
        using var scope = NewDisposeScope();
        Tensor gathered = peers
            .StartAllGather(tensor(lengths.ToArray()), [.. peers.Shards.Select(_ => (long)lengths.Count)])
            .Result();
        long[][] all = [.. gathered.data<long>().ToArray().Chunk(lengths.Count)];
        for (int peer = 0; peer < all.Length; peer++)
        {
            if (!all[peer].SequenceEqual(all[0]))
            {
                throw new UserException(
                    $"lengths is [{string.Join(", ", all[0])}] where row {peers.Shards[0].FirstRow} lies and "
                        + $"[{string.Join(", ", all[peer])}] where row "
                        + $"{peers.Shards[peer].FirstRow} lies: give every rank of a sequence the same list, "
                        + "the lengths of the whole sequences."
                );
            }
        }
    }

    // Neighbouring sequences of one length are worked on together.
    private static IEnumerable<(long First, long Count, long Rows)> EqualLengths(
        IReadOnlyList<long>? lengths,
        long batch,
        long whole
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

        long Length(long sequence) => lengths is null ? whole : lengths[(int)sequence];
    }
}

/// <summary>
/// One branch: whole segments, or the one segment shared with other shards, for each length of sequences.
/// </summary>
internal sealed record BranchPlan(IReadOnlyList<RowBlock> LocalBlocks, IReadOnlyList<ShardedSegment> Shared);
