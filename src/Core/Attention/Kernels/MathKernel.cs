using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// Plain tensor operations, for float64 on GPUs, which no fused kernel takes. All scores of a block exist in memory at once, so this
/// is for tests and small sequences.
/// </summary>
internal sealed class MathKernel : IAttentionKernel
{
    public long LargestBatch => long.MaxValue;

    public (Tensor Output, Tensor LogSumExp) Forward(Tensor q, Tensor k, Tensor v, bool causal)
    {
        using var scope = NewDisposeScope();
        Tensor scores = Scores(q, k, causal);
        Tensor logSumExp = scores.logsumexp(-1);
        Tensor output = scores.sub(logSumExp.unsqueeze(-1)).exp_().matmul(v);
        return (output.MoveToOuterDisposeScope(), logSumExp.MoveToOuterDisposeScope());
    }

    public (Tensor Q, Tensor K, Tensor V) Backward(
        Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor output, Tensor logSumExp, bool causal)
    {
        using var scope = NewDisposeScope();
        Tensor probabilities = Scores(q, k, causal).sub_(logSumExp.unsqueeze(-1)).exp_();
        Tensor delta = gradient.mul(output).sum(dim: -1, keepdim: true);
        Tensor scores = gradient.matmul(v.transpose(2, 3)).sub_(delta).mul_(probabilities).mul_(Scale(q));
        return (
            scores.matmul(k).MoveToOuterDisposeScope(),
            scores.transpose(2, 3).matmul(q).MoveToOuterDisposeScope(),
            probabilities.transpose(2, 3).matmul(gradient).MoveToOuterDisposeScope());
    }

    // [batch, heads, queries, keys]; −∞ where a query does not see a key.
    private static Tensor Scores(Tensor q, Tensor k, bool causal)
    {
        Tensor scores = q.matmul(k.transpose(2, 3)).mul_(Scale(q));
        if (!causal)
            return scores;
        Tensor later = ones([q.shape[2], k.shape[2]], dtype: ScalarType.Bool, device: q.device).triu(1);
        return scores.masked_fill_(later, Scalars.NegativeInfinity);
    }

    // A tensor without axes may stay on the CPU.
    private static Tensor Scale(Tensor q) => tensor(1 / Math.Sqrt(q.shape[3]), dtype: q.dtype);
}
