using LongNet.Core.Attention.Kernels;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Dilated attention over all branches, forward and exact backward, outside autograd. Both are collective where the
/// plan has sharded segments.
/// </summary>
internal static class DilatedAttentionPass
{
    /// <summary>Attends.</summary>
    /// <param name="plan">What is computed.</param>
    /// <param name="inputs">Not disposed.</param>
    /// <returns>Owned by the caller.</returns>
    public static AttentionResult Forward(DilatedAttentionPlan plan, AttentionInputs inputs)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        // The gathers run while the queries attend to local keys.
        PendingSegment[][] pending =
        [
            .. plan.Branches.Select(branch =>
                branch
                    .ShardedSegments.Select(segment => new PendingSegment(
                        segment,
                        segment.StartAllGather(inputs.K, inputs.V)
                    ))
                    .ToArray()
            ),
        ];
        var branches = new BranchForward(plan, inputs, new BranchAttention(inputs.Table, plan.Buckets));
        var (output, logSumExp) = Mix(branches, plan, inputs.Q, pending);
        var result = new AttentionResult(
            output,
            logSumExp,
            [.. pending.Select(segments => segments.Select(segment => segment.Wait()).ToArray())]
        );
        foreach (Tensor tensor in SavedAttention.Pack(result))
            tensor.MoveToOuterDisposeScope();
        return result;
    }

    /// <summary>Computes the gradients of <see cref="Forward"/>'s output.</summary>
    /// <param name="plan">As in <see cref="Forward"/>.</param>
    /// <param name="inputs">As in <see cref="Forward"/>.</param>
    /// <param name="result">What forward returned. Not disposed.</param>
    /// <param name="outputGradient">Shaped like the output, contiguous. Not disposed.</param>
    /// <returns>Owned by the caller.</returns>
    public static AttentionGradients Backward(
        DilatedAttentionPlan plan,
        AttentionInputs inputs,
        AttentionResult result,
        Tensor outputGradient
    )
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        var gradients = AttentionGradients.Zeros(plan, inputs);
        var kernel = new BranchAttention(inputs.Table, plan.Buckets) { TableGradient = gradients.Table };
        var forward = new BranchForward(plan, inputs, kernel);
        BranchBackward[] branches =
        [
            .. plan.Branches.Select(
                (branch, b) =>
                    new BranchBackward(forward, branch, result, result.Gathered[b], outputGradient, gradients)
            ),
        ];
        // Other ranks wait for the gradients of their keys and values: these go first and travel during the rest.
        foreach (BranchBackward branch in branches)
            branch.StartRemoteGradients();
        foreach (BranchBackward branch in branches)
            branch.AddLocalGradients();
        foreach (BranchBackward branch in branches)
        {
            using (branch)
                branch.AddReducedGradients();
        }

        return gradients.MoveToOuterDisposeScope();
    }

    // The output in the queries' type, and its log-sum-exp.
    private static (Tensor Output, Tensor LogSumExp) Mix(
        BranchForward branches,
        DilatedAttentionPlan plan,
        Tensor q,
        PendingSegment[][] pending
    )
    {
        ScalarType type = LogSumExpMerge.AccumulationType(q.dtype);
        long heads = q.shape[2];
        if (type == q.dtype)
        {
            LogSumExpMerge all = MixHeads(0, heads);
            return (all.Output, all.LogSumExp);
        }

        // A mixture in float32 is twice as large as the output: half of the heads at a time keep it as large.
        Tensor output = empty(q.shape, dtype: q.dtype, device: q.device),
            logSumExp = empty(q.shape[..3], dtype: type, device: q.device);
        foreach (var (first, count) in new[] { (0, heads / 2), (heads / 2, heads - heads / 2) })
        {
            using var scope = NewDisposeScope();
            LogSumExpMerge mixture = MixHeads(first, count);
            output.narrow(2, first, count).copy_(mixture.Output);
            logSumExp.narrow(2, first, count).copy_(mixture.LogSumExp);
        }

        return (output, logSumExp);

        LogSumExpMerge MixHeads(long first, long count)
        {
            var mixture = new LogSumExpMerge(q, first, count);
            for (int b = 0; count > 0 && b < plan.Branches.Count; b++)
                branches.AddLocal(plan.Branches[b], mixture);
            for (int b = 0; count > 0 && b < plan.Branches.Count; b++)
                branches.AddGathered([.. pending[b].Select(segment => segment.Wait())], mixture);
            return mixture;
        }
    }

    private sealed record PendingSegment(ShardedSegment Segment, IPendingTensor Packed)
    {
        public GatheredSegment Wait() => new(Segment, Packed.Result());
    }
}
