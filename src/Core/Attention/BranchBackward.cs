using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Backward of one branch. The steps are called in the order in which they stand here, each for all branches before the
/// next, so that what travels is in flight while the rest is computed.
/// </summary>
/// <param name="forward">The pass that is reversed.</param>
/// <param name="branch">The branch.</param>
/// <param name="result">What forward left, of all branches. Not owned.</param>
/// <param name="gathered">The branch's gathered keys and values. Not owned.</param>
/// <param name="outputGradient">Shaped like the output. Not owned.</param>
/// <param name="gradients">Added to. Not owned.</param>
internal sealed class BranchBackward(
    BranchForward forward,
    BranchPlan branch,
    AttentionResult result,
    IReadOnlyList<GatheredSegment> gathered,
    Tensor outputGradient,
    AttentionGradients gradients
) : IDisposable
{
    private readonly List<(ShardedSegment Segment, IPendingTensor ReducedGradients)> reductions = [];
    private Tensor? branchOutput;

    private bool Causal => forward.Plan.Causal;

    /// <summary>
    /// Adds the queries' gradients through gathered keys and values, and starts to send the gradients of those to the
    /// ranks that hold them. Collective among the ranks of every sharded segment.
    /// </summary>
    public void StartRemoteGradients()
    {
        foreach (GatheredSegment segment in gathered)
            reductions.Add((segment.Segment, segment.Segment.StartReduceScatter(RemoteGradients(segment))));
    }

    /// <summary>Adds all gradients through keys and values of the queries' own blocks.</summary>
    public void AddLocalGradients()
    {
        using var scope = NewDisposeScope();
        foreach (RowBlock all in branch.OwnBlocks(Causal))
        {
            foreach (RowBlock block in forward.Parts(all))
            {
                using var partScope = NewDisposeScope();
                var (keyGradient, valueGradient) = AddQueryGradient(
                    block,
                    block.View(forward.Inputs.K),
                    block.View(forward.Inputs.V),
                    Causal,
                    keyOffset: 0
                );
                block.View(gradients.K).add_(keyGradient, Scalars.One);
                block.View(gradients.V).add_(valueGradient, Scalars.One);
            }
        }

        Dispose();
    }

    /// <summary>Waits for the gradients that came from other ranks' queries and adds them.</summary>
    public void AddReducedGradients()
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
    private Tensor RemoteGradients(GatheredSegment gatheredSegment)
    {
        using var scope = NewDisposeScope();
        var (segment, packed) = gatheredSegment;
        Tensor remoteGradients = zeros(segment.TotalElements, dtype: gradients.K.dtype, device: gradients.K.device);
        foreach (var (group, block) in segment.OwnBlocks)
        {
            if (segment.Visible(packed, group, Causal) is not var (keys, values, keyOffset))
                continue;
            var (keyGradient, valueGradient) = AddQueryGradient(block, keys, values, causal: false, keyOffset);
            segment.Scatter(remoteGradients, group, Causal, keyGradient, valueGradient);
        }

        return remoteGradients.MoveToOuterDisposeScope();
    }

    private (Tensor K, Tensor V) AddQueryGradient(
        RowBlock block,
        Tensor keys,
        Tensor values,
        bool causal,
        long keyOffset
    )
    {
        var (queryGradient, keyGradient, valueGradient) = forward.Kernel.Backward(
            block,
            block.View(outputGradient),
            block.View(forward.Inputs.Q),
            keys,
            values,
            block.View(Output()),
            block.ViewStatistic(result.LogSumExp),
            causal,
            keyOffset
        );
        block.View(gradients.Q).add_(queryGradient, Scalars.One);
        return (keyGradient, valueGradient);
    }

    // The softmax's gradient needs Σ dO ⊙ O of the mixture, or Σ dO ⊙ O_b of the branch where the mixing weights count
    // as constants. The latter is needed in two steps, between which other branches have theirs.
    private Tensor Output()
    {
        if (forward.Plan.MixingGradient == MixingGradient.Exact)
            return result.Output;
        if (branchOutput is null)
        {
            using var scope = NewDisposeScope();
            Tensor q = forward.Inputs.Q;
            var mixture = new LogSumExpMerge(q);
            forward.AddLocal(branch, mixture);
            forward.AddGathered(gathered, mixture);
            branchOutput = mixture.Output.to(q.dtype).DetachFromDisposeScope();
        }

        return branchOutput;
    }
}
