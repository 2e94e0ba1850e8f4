using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// Attention among the rows of one block: by <see cref="AttentionKernels"/>, or by a kernel that takes a bias where the
/// logits have one.
/// </summary>
/// <param name="table">Biases, [buckets, heads]; null without. Not owned.</param>
/// <param name="rule">How distances share them.</param>
internal sealed class BranchAttention(Tensor? table, RelativePositionBuckets? rule)
{
    /// <summary>
    /// [buckets, heads]; backward calls add the table's gradient to it; null where nobody wants it. Not owned.
    /// </summary>
    public Tensor? TableGradient { get; init; }

    /// <summary>Attends; see <see cref="AttentionKernels.Forward"/>.</summary>
    /// <param name="block">The queries' rows and heads.</param>
    /// <param name="q">[segments, heads, queries, headDim].</param>
    /// <param name="keys">[segments, heads, keys, headDim], as far apart as the queries.</param>
    /// <param name="values">Likewise.</param>
    /// <param name="causal">Query i sees keys 0 … i.</param>
    /// <param name="before">How many keys lie before the one at the first query's row.</param>
    public (Tensor Output, Tensor LogSumExp) Forward(
        RowBlock block,
        Tensor q,
        Tensor keys,
        Tensor values,
        bool causal,
        long before
    ) =>
        table is null
            ? AttentionKernels.Forward(q, keys, values, causal)
            : Biased(q, keys, values, causal, Bias(block, q, keys, causal, before, collectsGradient: false));

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
    /// <param name="before">As in <see cref="Forward"/>.</param>
    public (Tensor Q, Tensor K, Tensor V) Backward(
        RowBlock block,
        Tensor gradient,
        Tensor q,
        Tensor keys,
        Tensor values,
        Tensor output,
        Tensor logSumExp,
        bool causal,
        long before
    )
    {
        if (table is null)
            return AttentionKernels.Backward(gradient, q, keys, values, output, logSumExp, causal);
        PairBias bias = Bias(block, q, keys, causal, before, collectsGradient: TableGradient is not null);
        var gradients = Avx512FlashKernel.TakesAnyLength(q)
            ? Avx512FlashKernel.Backward(
                Single(gradient),
                Single(q),
                Single(keys),
                Single(values),
                Single(output),
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
        if (!Avx512FlashKernel.TakesAnyLength(q))
            return BlockwiseKernel.Forward(q, keys, values, causal, bias);
        using var scope = NewDisposeScope();
        var (output, logSumExp) = Avx512FlashKernel.Forward(Single(q), Single(keys), Single(values), causal, bias);
        return (output.to(q.dtype).MoveToOuterDisposeScope(), logSumExp.MoveToOuterDisposeScope());
    }

    // The kernel reads bfloat16 as it is.
    private static Tensor Single(Tensor tensor) =>
        tensor.dtype == ScalarType.Float16 ? tensor.to(ScalarType.Float32) : tensor;

    private PairBias Bias(RowBlock block, Tensor q, Tensor keys, bool causal, long before, bool collectsGradient) =>
        PairBias.Create(
            table,
            rule,
            block.Group,
            block.RowStride,
            q.shape[2],
            keys.shape[2],
            before,
            causal,
            LogSumExpMerge.AccumulationType(q.dtype),
            q.device,
            collectsGradient
        );
}
