using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Backward of one branch. The steps are called in the order in which they stand here, each for all branches before the
/// next, so that what travels is in flight while the rest is computed.
/// </summary>
/// <param name="merger">What attended in forward.</param>
/// <param name="branch">The branch.</param>
/// <param name="result">What forward left, of all branches. Not owned.</param>
/// <param name="gathered">The branch's gathered keys and values. Not owned.</param>
/// <param name="outputGradient">Shaped like the output. Not owned.</param>
/// <param name="sums">Added to. Not owned.</param>
internal sealed class BranchBackward(
    BranchMerger merger,
    BranchPlan branch,
    AttentionResult result,
    IReadOnlyList<GatheredSegment> gathered,
    Tensor outputGradient,
    BlockGradientSums sums
) : IDisposable
{
    private readonly List<(ShardedSegment Segment, IPendingTensor ReducedGradients)> reductions = [];
    private Tensor? branchOutput;

    private bool Causal => merger.Plan.Causal;

    /// <summary>
    /// Adds the queries' gradients through gathered keys and values, and starts to send the gradients of those to the
    /// ranks that hold them. Collective among the ranks of every sharded segment.
    /// </summary>
    public void StartGatheredKeyGradients()
    {
        foreach (GatheredSegment segment in gathered)
            reductions.Add((segment.Segment, segment.Segment.StartReduceScatter(GatheredKeyGradients(segment))));
    }

    /// <summary>Adds all gradients through keys and values of the queries' own blocks.</summary>
    public void AddLocalGradients()
    {
        using var scope = NewDisposeScope();
        foreach (RowBlock block in branch.BlocksOfOwnKeys(Causal))
        {
            foreach (RowBlock piece in merger.Combiner is null ? merger.CacheSizedBlocks(block) : [block])
            {
                using var blockScope = NewDisposeScope();
                var (keyGradient, valueGradient) = AddQueryGradient(
                    piece,
                    piece.View(merger.Inputs.K),
                    piece.View(merger.Inputs.V),
                    Causal,
                    keyOffset: 0
                );
                sums.AddToKeys(piece, keyGradient, valueGradient);
            }
        }

        Dispose();
    }

    /// <summary>Waits for the gradients that came from other ranks' queries and adds them.</summary>
    /// <param name="gradients">The sums; added to.</param>
    public void AddReducedGradients(AttentionGradients gradients)
    {
        using var scope = NewDisposeScope();
        foreach (var (segment, reducedGradients) in reductions)
            segment.Add(reducedGradients.Result(), gradients.K, gradients.V);
    }

    /// <summary>Releases the branch's own output.</summary>
    public void Dispose()
    {
        branchOutput?.Dispose();
        branchOutput = null;
    }

    // The gradients of all gathered keys and values from this rank's queries, packed as the segment is. In the scope of
    // the caller, as they must live until they have been sent.
    private Tensor GatheredKeyGradients(GatheredSegment gatheredSegment)
    {
        using var scope = NewDisposeScope();
        var (segment, packed) = gatheredSegment;
        Tensor packedGradients = zeros(segment.TotalElements, dtype: sums.Type, device: packed.device);
        foreach (var (group, block) in segment.OwnBlocks)
        {
            if (segment.Visible(packed, group, Causal) is not var (keys, values, keyOffset))
                continue;
            var (keyGradient, valueGradient) = AddQueryGradient(block, keys, values, causal: false, keyOffset);
            segment.Scatter(packedGradients, group, Causal, keyGradient, valueGradient);
        }

        return packedGradients.MoveToOuterDisposeScope();
    }

    private (Tensor K, Tensor V) AddQueryGradient(
        RowBlock block,
        Tensor keys,
        Tensor values,
        bool causal,
        long keyOffset
    )
    {
        var (queryGradient, keyGradient, valueGradient) = merger.Attention.Backward(
            block,
            block.View(outputGradient),
            block.View(merger.Inputs.Q),
            keys,
            values,
            block.View(Output()),
            block.ViewLogSumExp(result.LogSumExp),
            causal,
            keyOffset
        );
        sums.AddToQueries(block, queryGradient);
        return (keyGradient, valueGradient);
    }

    // The output O in the term Σ dO ⊙ O of the softmax's gradient. Where the mixing weights have a gradient, it is that
    // of all branches. Where they count as constants, it is this branch's own, which is computed again. Two steps need
    // it, so it is kept from the first to the second.
    private Tensor Output()
    {
        if (merger.Plan.MixingGradient == MixingGradient.Exact)
            return result.Output;
        if (branchOutput is null)
        {
            using var scope = NewDisposeScope();
            Tensor q = merger.Inputs.Q;
            if (merger.Combiner is { } combiner)
            {
                var results = new List<BlockResult>();
                merger.AttendLocal(branch, results);
                merger.AttendGathered(gathered, results);
                branchOutput = combiner.Merge(q, results).Output.DetachFromDisposeScope();
                return branchOutput;
            }

            var merge = new LogSumExpMerge(q);
            merger.MergeLocal(branch, merge);
            merger.MergeGathered(gathered, merge);
            branchOutput = merge.Output.to(q.dtype).DetachFromDisposeScope();
        }

        return branchOutput;
    }
}
