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
        // The gathers run while the queries attend to local keys. Without a combiner only half of that work hides them
        // in bfloat16 and float16: AttendInBranches computes one half of the heads after the other, and the first half
        // waits for the gathers.
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
        var merger = new BranchMerger(plan, inputs, new BlockAttention(inputs.Table, plan.Buckets));
        var (output, logSumExp) = merger.Combiner is { } combiner
            ? AttendAndCombine(combiner, merger, plan, inputs.Q, pending)
            : AttendInBranches(merger, plan, inputs.Q, pending);
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
        using var sums = new BlockGradientSums(plan, inputs);
        var attention = new BlockAttention(inputs.Table, plan.Buckets) { TableGradient = sums.Table };
        var merger = new BranchMerger(plan, inputs, attention);
        BranchBackward[] branches =
        [
            .. plan.Branches.Select(
                (branch, b) => new BranchBackward(merger, branch, result, result.Gathered[b], outputGradient, sums)
            ),
        ];
        // Other ranks wait for the gradients of their keys and values: these go first and travel during the rest.
        foreach (BranchBackward branch in branches)
            branch.StartGatheredKeyGradients();
        foreach (BranchBackward branch in branches)
            branch.AddLocalGradients();
        AttentionGradients gradients = sums.Total();
        foreach (BranchBackward branch in branches)
        {
            using (branch)
                branch.AddReducedGradients(gradients);
        }

        return gradients.MoveToOuterDisposeScope();
    }

    // The output in the queries' type, and its log-sum-exp. All local blocks come before the first wait for a gather.
    // At the peak the results of all blocks are in memory: of the output's size, the sum of 1 / dilation over branches.
    private static (Tensor Output, Tensor LogSumExp) AttendAndCombine(
        BlockCombiner combiner,
        BranchMerger merger,
        DilatedAttentionPlan plan,
        Tensor q,
        PendingSegment[][] pending
    )
    {
        var results = new List<BlockResult>();
        foreach (BranchPlan branch in plan.Branches)
            merger.AttendLocal(branch, results);
        foreach (PendingSegment[] segments in pending)
            merger.AttendGathered([.. segments.Select(segment => segment.Wait())], results);
        var merged = combiner.Merge(q, results);
        foreach (BlockResult result in results)
            result.Dispose();
        return merged;
    }

    // Likewise, without a combiner.
    private static (Tensor Output, Tensor LogSumExp) AttendInBranches(
        BranchMerger merger,
        DilatedAttentionPlan plan,
        Tensor q,
        PendingSegment[][] pending
    )
    {
        ScalarType type = LogSumExpMerge.AccumulationType(q.dtype);
        long heads = q.shape[2];
        if (type == q.dtype)
        {
            LogSumExpMerge merge = MergeHeads(0, heads);
            return (merge.Output, merge.LogSumExp);
        }

        // Results are merged in float32, which takes twice the memory of the output. Half of the heads at a time takes
        // no more than the output itself. The first half waits for the gathers, so the second hides none of them.
        Tensor output = empty(q.shape, dtype: q.dtype, device: q.device),
            logSumExp = empty(q.shape[..3], dtype: type, device: q.device);
        foreach (var (first, count) in new[] { (0, heads / 2), (heads / 2, heads - heads / 2) })
        {
            using var scope = NewDisposeScope();
            LogSumExpMerge merge = MergeHeads(first, count);
            output.narrow(2, first, count).copy_(merge.Output);
            logSumExp.narrow(2, first, count).copy_(merge.LogSumExp);
        }

        return (output, logSumExp);

        LogSumExpMerge MergeHeads(long first, long count)
        {
            var merge = new LogSumExpMerge(q, first, count);
            for (int b = 0; count > 0 && b < plan.Branches.Count; b++)
                merger.MergeLocal(plan.Branches[b], merge);
            for (int b = 0; count > 0 && b < plan.Branches.Count; b++)
                merger.MergeGathered([.. pending[b].Select(segment => segment.Wait())], merge);
            return merge;
        }
    }

    private sealed record PendingSegment(ShardedSegment Segment, IPendingTensor Packed)
    {
        public GatheredSegment Wait() => new(Segment, Packed.Result());
    }
}
