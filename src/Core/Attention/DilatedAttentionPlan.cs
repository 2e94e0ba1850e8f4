using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// What dilated attention over tensors of one shape consists of: per branch, the kernel calls on rows that are here and,
/// where a segment lies on several shards, the exchange of its keys and values.
/// </summary>
internal sealed class DilatedAttentionPlan
{
    private DilatedAttentionPlan(IReadOnlyList<BranchPlan> branches, bool causal, MixingGradient mixingGradient)
    {
        Branches = branches;
        Causal = causal;
        MixingGradient = mixingGradient;
    }

    public IReadOnlyList<BranchPlan> Branches { get; }

    public bool Causal { get; }

    public MixingGradient MixingGradient { get; }

    /// <exception cref="UserException">A branch does not fit the shard; thrown before any exchange.</exception>
    public static DilatedAttentionPlan Create(Tensor q, DilatedAttentionOptions options, IKeyValueExchange exchange)
    {
        long batch = q.shape[0], length = q.shape[1], heads = q.shape[2], headDim = q.shape[3];
        SequenceShard shard = exchange.Place(length);
        var branches = new List<BranchPlan>();
        foreach (Branch requested in options.Schedule)
        {
            // A segment longer than the sequence is the sequence.
            Branch branch = requested with { SegmentLength = Math.Min(requested.SegmentLength, shard.TotalLength) };
            IReadOnlyList<HeadGroup> groups = options.HeadOffsets.Groups(heads, branch.Dilation);
            branches.Add(exchange.PeersOf(branch, shard) is { } peers
                ? new BranchPlan([], new SharedSegment(branch, peers, groups, batch, headDim))
                : new BranchPlan([.. RowBlock.OfLocalBranch(branch, groups, batch, length)], null));
        }

        return new DilatedAttentionPlan(branches, options.Causal, options.MixingGradient);
    }
}

/// <summary>One branch: whole segments, or the one segment shared with other shards.</summary>
internal sealed record BranchPlan(IReadOnlyList<RowBlock> LocalBlocks, SharedSegment? Shared);
