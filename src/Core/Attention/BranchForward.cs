using LongNet.Core.Attention.Kernels;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>Attention of single branches, mixed into the results of others.</summary>
/// <param name="Plan">What is computed.</param>
/// <param name="Inputs">Not owned.</param>
/// <param name="Kernel">Computes blocks.</param>
internal sealed record BranchForward(DilatedAttentionPlan Plan, AttentionInputs Inputs, BranchAttention Kernel)
{
    // What a kernel returns for a part of a branch at once, in elements: it is mixed in before it leaves the last
    // cache, and a branch's complete output never stands beside the mixture.
    private const long PartElements = 1 << 20;

    // The kernels' backward shares out entire heads among the threads.
    private const long HeadsPerThread = 4;

    /// <summary>Mixes in the attention to keys of the queries' own blocks.</summary>
    public void AddLocal(BranchPlan branch, LogSumExpMerge mixture)
    {
        foreach (RowBlock all in branch.OwnBlocks(Plan.Causal))
        {
            var (mixed, _, count) = mixture.Restrict(all);
            if (count == 0)
                continue;
            foreach (RowBlock block in Parts(mixed))
                mixture.Attend(
                    Kernel,
                    block,
                    Inputs.Q,
                    block.View(Inputs.K),
                    block.View(Inputs.V),
                    Plan.Causal,
                    keyOffset: 0
                );
        }
    }

    /// <summary>Mixes in the attention to gathered keys.</summary>
    public void AddGathered(IReadOnlyList<GatheredSegment> gathered, LogSumExpMerge mixture)
    {
        foreach (var (segment, packed) in gathered)
        {
            foreach (var (group, block) in segment.OwnBlocks)
            {
                if (segment.Visible(packed, group, Plan.Causal) is not var (keys, values, keyOffset))
                    continue;
                var (mixed, first, count) = mixture.Restrict(block);
                if (count > 0)
                    mixture.Attend(
                        Kernel,
                        mixed,
                        Inputs.Q,
                        keys.narrow(1, first, count),
                        values.narrow(1, first, count),
                        causal: false,
                        keyOffset
                    );
            }
        }
    }

    /// <summary>The parts of a block that one kernel call works on.</summary>
    public IEnumerable<RowBlock> Parts(RowBlock block) =>
        block.Split(Inputs.Q.shape[3], PartElements, HeadsPerThread * get_num_threads());
}
