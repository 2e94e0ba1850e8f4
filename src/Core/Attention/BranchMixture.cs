using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// The running mixture of attention results by their softmax denominators. Accumulates in float32 (float64 for float64
/// inputs), whatever the compute type.
/// </summary>
internal sealed class BranchMixture
{
    /// <param name="q">Gives shape, dtype and device. [batch, length, heads, headDim].</param>
    public BranchMixture(Tensor q)
    {
        ScalarType accumulate = AccumulationType(q.dtype);
        Output = zeros(q.shape, dtype: accumulate, device: q.device);
        LogSumExp = full(q.shape[..3], Scalars.NegativeInfinity, dtype: accumulate, device: q.device);
    }

    /// <summary>[batch, length, heads, headDim]; 0 in rows that nothing was added to.</summary>
    public Tensor Output { get; }

    /// <summary>[batch, length, heads]; −∞ in rows that nothing was added to.</summary>
    public Tensor LogSumExp { get; }

    public static ScalarType AccumulationType(ScalarType compute) =>
        compute == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;

    /// <summary>Mixes one attention result into the block's rows.</summary>
    /// <param name="block">Which rows and heads.</param>
    /// <param name="output">[segments, heads, rows, headDim].</param>
    /// <param name="logSumExp">[segments, heads, rows], finite.</param>
    public void Add(RowBlock block, Tensor output, Tensor logSumExp)
    {
        using var scope = NewDisposeScope();
        Tensor total = block.ViewStatistic(LogSumExp);
        // exp(new) / (exp(total) + exp(new)); exactly 1 in a row that is still empty, where total is −∞.
        Tensor share = logSumExp.sub(total).sigmoid_().unsqueeze(-1);
        block.View(Output).lerp_(output.to(Output.dtype), share);
        total.copy_(total.logaddexp(logSumExp));
    }
}
