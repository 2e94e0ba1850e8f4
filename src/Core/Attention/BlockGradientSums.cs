using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Sums the gradients of blocks: at once into tensors of zeros, or with a <see cref="BlockCombiner"/> when all blocks
/// are done. With one, the gradients of all blocks are in memory at the peak: of the size of q, k and v, the sum of
/// 1 / dilation over branches.
/// </summary>
internal sealed class BlockGradientSums : IDisposable
{
    private readonly AttentionInputs inputs;
    private readonly BlockCombiner? combiner;
    private readonly AttentionGradients? dense;
    private readonly ScalarType keyType;
    private readonly List<BlockResult> queries = [],
        keys = [],
        values = [];

    /// <param name="plan">What is computed.</param>
    /// <param name="inputs">Not owned.</param>
    public BlockGradientSums(DilatedAttentionPlan plan, AttentionInputs inputs)
    {
        this.inputs = inputs;
        combiner = BlockCombiner.For(inputs);
        dense = combiner is null ? AttentionGradients.Zeros(plan, inputs) : null;
        Type = LogSumExpMerge.AccumulationType(inputs.Q.dtype);
        // What other ranks' queries add comes after the sum, so it must not be rounded before.
        keyType = plan.Branches.Any(branch => branch.ShardedSegments.Count > 0) ? Type : inputs.K.dtype;
    }

    /// <summary>The type of the sums.</summary>
    public ScalarType Type { get; }

    /// <summary>The gradient of the relative position biases, to be added to; null where none is wanted.</summary>
    public Tensor? Table => dense?.Table;

    /// <summary>Adds a block's gradient of the queries.</summary>
    public void AddToQueries(RowBlock block, Tensor gradient) => Add(dense?.Q, queries, block, gradient);

    /// <summary>Adds a block's gradients of keys and values.</summary>
    public void AddToKeys(RowBlock block, Tensor keyGradient, Tensor valueGradient)
    {
        Add(dense?.K, keys, block, keyGradient);
        Add(dense?.V, values, block, valueGradient);
    }

    /// <summary>The sums of all that was added, once. In the dispose scope of the caller.</summary>
    public AttentionGradients Total() =>
        dense
        ?? new AttentionGradients(
            Sum(inputs.Q, inputs.Q.dtype, queries),
            Sum(inputs.K, keyType, keys),
            Sum(inputs.V, keyType, values),
            Table: null
        );

    public void Dispose()
    {
        foreach (List<BlockResult> collected in new[] { queries, keys, values })
            Release(collected);
    }

    private static void Add(Tensor? sum, List<BlockResult> collected, RowBlock block, Tensor gradient)
    {
        if (sum is null)
            collected.Add(new BlockResult(block, gradient.DetachFromDisposeScope()));
        else
            block.View(sum).add_(gradient, Scalars.One);
    }

    private Tensor Sum(Tensor like, ScalarType type, List<BlockResult> collected)
    {
        Tensor sum = combiner!.Sum(like, type, collected);
        Release(collected);
        return sum;
    }

    private static void Release(List<BlockResult> collected)
    {
        foreach (BlockResult result in collected)
            result.Dispose();
        collected.Clear();
    }
}
