using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// The fused attention operators of libtorch, and their only caller. Scores and masks never exist in memory, and strided
/// views are taken as they are.
/// </summary>
internal static class FlashKernel
{
    private static readonly TorchScriptModule Operators = new("""
        def forward_causal(q: Tensor, k: Tensor, v: Tensor) -> Tuple[Tensor, Tensor]:
            return torch._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)

        def forward_full(q: Tensor, k: Tensor, v: Tensor) -> Tuple[Tensor, Tensor]:
            return torch._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False)

        def backward_causal(g: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
            return torch._scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, o, lse, 0.0, True)

        def backward_full(g: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
            return torch._scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, o, lse, 0.0, False)
        """);

    /// <summary>softmax(q kᵀ / √headDim) v and its log-sum-exp.</summary>
    /// <param name="q">[batch, heads, queries, headDim]; strided views allowed, last axis dense. Not disposed.</param>
    /// <param name="k">[batch, heads, keys, headDim], likewise.</param>
    /// <param name="v">[batch, heads, keys, headDim], likewise.</param>
    /// <param name="causal">Query i sees keys 0 … i; needs as many queries as keys.</param>
    /// <returns>
    /// Output, shaped like q and of its dtype; log-sum-exp, [batch, heads, queries], float32 (float64 for float64).
    /// Owned by the caller.
    /// </returns>
    public static (Tensor Output, Tensor LogSumExp) Forward(Tensor q, Tensor k, Tensor v, bool causal)
    {
        Tensor[] results = Tensors(Operators.Invoke(causal ? "forward_causal" : "forward_full", q, k, v));
        return (results[0], results[1]);
    }

    /// <summary>
    /// Gradients of attention with probabilities exp(q kᵀ / √headDim − logSumExp). With the mixture's output and
    /// log-sum-exp in place of a branch's own, these are the branch's share of the mixture's exact gradient.
    /// </summary>
    /// <param name="gradient">Gradient of the output, shaped like q.</param>
    /// <param name="q">As in <see cref="Forward"/>.</param>
    /// <param name="k">As in <see cref="Forward"/>.</param>
    /// <param name="v">As in <see cref="Forward"/>.</param>
    /// <param name="output">Shaped like q.</param>
    /// <param name="logSumExp">[batch, heads, queries]; strided views allowed.</param>
    /// <param name="causal">As in <see cref="Forward"/>.</param>
    /// <returns>Gradients shaped like q, k and v. Owned by the caller.</returns>
    public static (Tensor Q, Tensor K, Tensor V) Backward(
        Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor output, Tensor logSumExp, bool causal)
    {
        Tensor[] results = Tensors(
            Operators.Invoke(causal ? "backward_causal" : "backward_full", gradient, q, k, v, output, logSumExp));
        return (results[0], results[1], results[2]);
    }

    private static Tensor[] Tensors(object? result) => result switch
    {
        Tensor[] tensors => tensors,
        ValueTuple<Tensor, Tensor> pair => [pair.Item1, pair.Item2],
        ValueTuple<Tensor, Tensor, Tensor> triple => [triple.Item1, triple.Item2, triple.Item3],
        object?[] values => [.. values.Cast<Tensor>()],
        _ => throw new InvalidOperationException($"A fused attention operator returned {result?.GetType().Name ?? "nothing"}."),
    };
}
