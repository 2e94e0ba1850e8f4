using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>Ordinary tensor operations, tile by tile, for what no fused kernel supports: float64 on GPUs, and
/// other devices.</summary>
internal sealed class MathKernel : IAttentionKernel
{
    public long LargestBatch => long.MaxValue;

    public (Tensor Output, Tensor LogSumExp) Forward(Tensor q, Tensor k, Tensor v, bool causal)
    {
        using var scope = NewDisposeScope();
        var (output, logSumExp) = BlockwiseKernel.Forward(q, k, v, causal, MaskOnly(q, k, causal));
        return (output.MoveToOuterDisposeScope(), logSumExp.MoveToOuterDisposeScope());
    }

    public (Tensor Q, Tensor K, Tensor V) Backward(
        Tensor gradient,
        Tensor q,
        Tensor k,
        Tensor v,
        Tensor output,
        Tensor logSumExp,
        bool causal
    )
    {
        using var scope = NewDisposeScope();
        var gradients = BlockwiseKernel.Backward(gradient, q, k, v, output, logSumExp, causal, MaskOnly(q, k, causal));
        return (
            gradients.Q.MoveToOuterDisposeScope(),
            gradients.K.MoveToOuterDisposeScope(),
            gradients.V.MoveToOuterDisposeScope()
        );
    }

    private static PairBias MaskOnly(Tensor q, Tensor k, bool causal) =>
        PairBias.Create(
            null,
            null,
            new HeadGroup(0, 0, 1, q.shape[1]),
            dilation: 1,
            q.shape[2],
            k.shape[2],
            keyOffset: 0,
            causal,
            q.dtype,
            q.device,
            collectsGradient: false
        );
}
