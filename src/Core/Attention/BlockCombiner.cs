using LongNet.Core.Cuda;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>What attention computed for one block.</summary>
/// <param name="Block">Which rows and heads.</param>
/// <param name="Values">[segments, heads, rows, headDim].</param>
/// <param name="LogSumExp">[segments, heads, rows]; null for gradients.</param>
internal sealed record BlockResult(RowBlock Block, Tensor Values, Tensor? LogSumExp = null) : IDisposable
{
    public void Dispose()
    {
        Values.Dispose();
        LogSumExp?.Dispose();
    }
}

/// <summary>
/// Brings the results of all blocks together at once, so that every row is written once, in the compute type. A row may
/// be in several blocks. Without a combiner, blocks are added to a float32 tensor one after the other, while they are
/// still in the processor's cache.
/// </summary>
internal abstract class BlockCombiner
{
    /// <summary>Used in place of the device's own on this thread and those that it starts. For tests.</summary>
    internal static readonly AsyncLocal<BlockCombiner?> Substitute = new();

    /// <summary>The combiner for a pass over these inputs; null where blocks are added one after the other.</summary>
    public static BlockCombiner? For(AttentionInputs inputs)
    {
        // The kernels with a bias work on tiles, not on complete blocks.
        if (inputs.Table is not null)
            return null;
        if (Substitute.Value is { } substitute)
            return substitute;
        return KernelModule.For(inputs.Q) is { } kernels ? new KernelBlockCombiner(kernels) : null;
    }

    /// <summary>Mixes outputs by their softmax denominators.</summary>
    /// <param name="like">Gives shape, dtype and device. [batch, length, heads, headDim].</param>
    /// <param name="results">With log-sum-exps. Not disposed.</param>
    /// <returns>
    /// Output, shaped and typed like <paramref name="like"/>, 0 in rows of no block; log-sum-exp, [batch, length,
    /// heads], at least float32, −∞ in rows of no block. Owned by the caller.
    /// </returns>
    public abstract (Tensor Output, Tensor LogSumExp) Merge(Tensor like, IReadOnlyList<BlockResult> results);

    /// <summary>Sums gradients, in the order of the blocks.</summary>
    /// <param name="like">Gives shape and device. [batch, length, heads, headDim].</param>
    /// <param name="type">Of the result: that of <paramref name="like"/>, or the one it is accumulated in.</param>
    /// <param name="results">Not disposed.</param>
    /// <returns>Shaped like <paramref name="like"/>, 0 in rows of no block. Owned by the caller.</returns>
    public abstract Tensor Sum(Tensor like, ScalarType type, IReadOnlyList<BlockResult> results);
}
