using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>A kernel that is one of libtorch's fused operators.</summary>
/// <param name="operators">A script with the functions forward(q, k, v, causal) and backward(g, q, k, v, o, lse,
/// causal).</param>
internal abstract class OperatorKernel(TorchScriptModule operators) : IAttentionKernel
{
    public abstract long LargestBatch { get; }

    public (Tensor Output, Tensor LogSumExp) Forward(Tensor q, Tensor k, Tensor v, bool causal)
    {
        Tensor[] results = operators.InvokeTensors("forward", q, k, v, causal);
        return (results[0], results[1]);
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
        Tensor[] results = operators.InvokeTensors("backward", gradient, q, k, v, output, logSumExp, causal);
        return (results[0], results[1], results[2]);
    }
}
