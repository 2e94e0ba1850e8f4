using LongNet.Core.Attention.Kernels;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Attends in single branches and merges the results. One merger serves all branches of a pass, forward or backward.
/// </summary>
/// <param name="Plan">What is computed.</param>
/// <param name="Inputs">Not owned.</param>
/// <param name="Attention">Computes blocks.</param>
internal sealed record BranchMerger(DilatedAttentionPlan Plan, AttentionInputs Inputs, BlockAttention Attention)
{
    // Most elements that one kernel call returns. So few are merged while they are still in the processor's last cache,
    // and a branch's complete output never takes memory beside the merged one.
    private const long CachedElements = 1 << 20;

    // The kernels' backward gives each thread whole heads. Several heads for each thread keep all threads busy.
    private const long HeadsPerThread = 4;

    /// <summary>Brings the results of complete blocks together; null where they are merged one by one.</summary>
    public BlockCombiner? Combiner { get; } = BlockCombiner.For(Inputs);

    /// <summary>Attends to keys of the queries' own blocks, one kernel call for each block.</summary>
    /// <param name="branch">The branch.</param>
    /// <param name="results">Added to, in the dispose scope of the caller.</param>
    public void AttendLocal(BranchPlan branch, List<BlockResult> results)
    {
        foreach (RowBlock block in branch.BlocksOfOwnKeys(Plan.Causal))
        {
            using var scope = NewDisposeScope();
            results.Add(Attend(block, block.View(Inputs.K), block.View(Inputs.V), Plan.Causal, keyOffset: 0));
        }
    }

    /// <summary>Attends to gathered keys, one kernel call for each block.</summary>
    /// <param name="gathered">The branch's gathered keys and values.</param>
    /// <param name="results">Added to, in the dispose scope of the caller.</param>
    public void AttendGathered(IReadOnlyList<GatheredSegment> gathered, List<BlockResult> results)
    {
        foreach (var (segment, packed) in gathered)
        {
            foreach (var (group, block) in segment.OwnBlocks)
            {
                using var scope = NewDisposeScope();
                if (segment.Visible(packed, group, Plan.Causal) is var (keys, values, keyOffset))
                    results.Add(Attend(block, keys, values, causal: false, keyOffset));
            }
        }
    }

    /// <summary>Attends to keys of the queries' own blocks.</summary>
    /// <param name="branch">The branch.</param>
    /// <param name="merge">The results are merged into it.</param>
    public void MergeLocal(BranchPlan branch, LogSumExpMerge merge)
    {
        foreach (RowBlock block in branch.BlocksOfOwnKeys(Plan.Causal))
        {
            var (restricted, _, count) = merge.RestrictToHeads(block);
            if (count == 0)
                continue;
            foreach (RowBlock piece in CacheSizedBlocks(restricted))
                merge.AttendAndMerge(
                    Attention,
                    piece,
                    Inputs.Q,
                    piece.View(Inputs.K),
                    piece.View(Inputs.V),
                    Plan.Causal,
                    keyOffset: 0
                );
        }
    }

    /// <summary>Attends to gathered keys.</summary>
    /// <param name="gathered">The branch's gathered keys and values.</param>
    /// <param name="merge">The results are merged into it.</param>
    public void MergeGathered(IReadOnlyList<GatheredSegment> gathered, LogSumExpMerge merge)
    {
        foreach (var (segment, packed) in gathered)
        {
            foreach (var (group, block) in segment.OwnBlocks)
            {
                if (segment.Visible(packed, group, Plan.Causal) is not var (keys, values, keyOffset))
                    continue;
                var (restricted, first, count) = merge.RestrictToHeads(block);
                if (count > 0)
                    merge.AttendAndMerge(
                        Attention,
                        restricted,
                        Inputs.Q,
                        keys.narrow(1, first, count),
                        values.narrow(1, first, count),
                        causal: false,
                        keyOffset
                    );
            }
        }
    }

    /// <summary>
    /// Cuts a block into those that one kernel call each works on. Devices other than the CPU take it in one call.
    /// </summary>
    public IEnumerable<RowBlock> CacheSizedBlocks(RowBlock block) =>
        Inputs.Q.device_type != TorchSharp.DeviceType.CPU
            ? [block]
            : block.Split(Inputs.Q.shape[3], CachedElements, HeadsPerThread * get_num_threads());

    private BlockResult Attend(RowBlock block, Tensor keys, Tensor values, bool causal, long keyOffset)
    {
        var (output, logSumExp) = Attention.Forward(block, block.View(Inputs.Q), keys, values, causal, keyOffset);
        return new BlockResult(block, output.MoveToOuterDisposeScope(), logSumExp.MoveToOuterDisposeScope());
    }
}
