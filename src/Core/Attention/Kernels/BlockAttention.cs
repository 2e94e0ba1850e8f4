using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// Attention among the rows of one block: by <see cref="AttentionKernels"/>, or with a relative position bias by a
/// kernel that supports one.
/// </summary>
/// <param name="table">Biases, [buckets, heads]; null without. Not owned.</param>
/// <param name="buckets">Maps distances to buckets.</param>
internal sealed class BlockAttention(Tensor? table, RelativePositionBuckets? buckets)
{
    /// <summary>
    /// [buckets, heads]; backward adds the table's gradient to it; null where that is not needed. Not owned.
    /// </summary>
    public Tensor? TableGradient { get; init; }

    /// <summary>Attends; see <see cref="AttentionKernels.Forward"/>.</summary>
    /// <param name="block">The queries' rows and heads.</param>
    /// <param name="q">[segments, heads, queries, headDim].</param>
    /// <param name="keys">[segments, heads, keys, headDim], of the same dilation as the queries.</param>
    /// <param name="values">Likewise.</param>
    /// <param name="causal">Query i sees keys 0 … i.</param>
    /// <param name="keyOffset">Number of keys before the one at the first query's row.</param>
    public (Tensor Output, Tensor LogSumExp) Forward(
        RowBlock block,
        Tensor q,
        Tensor keys,
        Tensor values,
        bool causal,
        long keyOffset
    ) =>
        table is null
            ? AttentionKernels.Forward(q, keys, values, causal)
            : Biased(q, keys, values, causal, Bias(block, q, keys, causal, keyOffset, collectsGradient: false));

    /// <summary>
    /// Gradients; see <see cref="AttentionKernels.Backward"/>. The table's adds to <see cref="TableGradient"/>.
    /// </summary>
    /// <param name="block">As in <see cref="Forward"/>.</param>
    /// <param name="gradient">Gradient of the output, shaped like q.</param>
    /// <param name="q">As in <see cref="Forward"/>.</param>
    /// <param name="keys">As in <see cref="Forward"/>.</param>
    /// <param name="values">As in <see cref="Forward"/>.</param>
    /// <param name="output">Shaped like q.</param>
    /// <param name="logSumExp">[segments, heads, queries].</param>
    /// <param name="causal">As in <see cref="Forward"/>.</param>
    /// <param name="keyOffset">As in <see cref="Forward"/>.</param>
    public (Tensor Q, Tensor K, Tensor V) Backward(
        RowBlock block,
        Tensor gradient,
        Tensor q,
        Tensor keys,
        Tensor values,
        Tensor output,
        Tensor logSumExp,
        bool causal,
        long keyOffset
    )
    {
        if (table is null)
            return AttentionKernels.Backward(gradient, q, keys, values, output, logSumExp, causal);
        PairBias bias = Bias(block, q, keys, causal, keyOffset, collectsGradient: TableGradient is not null);
        var gradients = Avx512FlashKernel.Supports(q)
            ? Avx512FlashKernel.Backward(
                WidenHalf(gradient),
                WidenHalf(q),
                WidenHalf(keys),
                WidenHalf(values),
                WidenHalf(output),
                logSumExp,
                causal,
                bias
            )
            : BlockwiseKernel.Backward(gradient, q, keys, values, output, logSumExp, causal, bias);
        if (TableGradient is not null)
            bias.AddToTable(TableGradient);
        return gradients;
    }

    private static (Tensor Output, Tensor LogSumExp) Biased(
        Tensor q,
        Tensor keys,
        Tensor values,
        bool causal,
        PairBias bias
    )
    {
        if (!Avx512FlashKernel.Supports(q))
            return BlockwiseKernel.Forward(q, keys, values, causal, bias);
        using var scope = NewDisposeScope();
        var (output, logSumExp) = Avx512FlashKernel.Forward(
            WidenHalf(q),
            WidenHalf(keys),
            WidenHalf(values),
            causal,
            bias
        );
        return (output.to(q.dtype).MoveToOuterDisposeScope(), logSumExp.MoveToOuterDisposeScope());
    }

    // The kernel reads float32 and bfloat16 themselves; only float16 has to be widened.
    private static Tensor WidenHalf(Tensor tensor) =>
        tensor.dtype == ScalarType.Float16 ? tensor.to(ScalarType.Float32) : tensor;

    private PairBias Bias(RowBlock block, Tensor q, Tensor keys, bool causal, long keyOffset, bool collectsGradient) =>
        PairBias.Create(
            table,
            buckets,
            block.Group,
            block.RowStride,
            q.shape[2],
            keys.shape[2],
            keyOffset,
            causal,
            LogSumExpMerge.AccumulationType(q.dtype),
            q.device,
            collectsGradient
        );
}
