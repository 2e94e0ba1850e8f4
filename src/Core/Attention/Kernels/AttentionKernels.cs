using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// Attention over one block of rows by the kernel for its device, type and processor. Logits and masks are in memory
/// only one tile at a time, and strided views are read without a copy.
/// </summary>
internal static class AttentionKernels
{
    private static readonly Avx512FlashKernel Avx512 = new();
    private static readonly CpuFlashKernel Cpu = new();
    private static readonly MathKernel TensorOperations = new();

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
        IAttentionKernel kernel = For(q, k.shape[2]);
        if (q.shape[0] <= kernel.LargestBatch)
            return kernel.Forward(q, k, v, causal);

        using var scope = NewDisposeScope();
        (Tensor Output, Tensor LogSumExp)[] parts =
        [
            .. Parts(q.shape[0], kernel.LargestBatch)
                .Select(part => kernel.Forward(Slice(q, part), Slice(k, part), Slice(v, part), causal)),
        ];
        return (Join(parts.Select(part => part.Output)), Join(parts.Select(part => part.LogSumExp)));
    }

    /// <summary>
    /// Gradients of attention with probabilities exp(q kᵀ / √headDim − logSumExp). Given output and log-sum-exp merged
    /// over all branches in place of one branch's own, they are that branch's share of the exact gradient of the merge.
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
        Tensor gradient,
        Tensor q,
        Tensor k,
        Tensor v,
        Tensor output,
        Tensor logSumExp,
        bool causal
    )
    {
        IAttentionKernel kernel = For(q, k.shape[2]);
        if (q.shape[0] <= kernel.LargestBatch)
            return kernel.Backward(gradient, q, k, v, output, logSumExp, causal);

        using var scope = NewDisposeScope();
        (Tensor Q, Tensor K, Tensor V)[] parts =
        [
            .. Parts(q.shape[0], kernel.LargestBatch)
                .Select(part =>
                    kernel.Backward(
                        Slice(gradient, part),
                        Slice(q, part),
                        Slice(k, part),
                        Slice(v, part),
                        Slice(output, part),
                        Slice(logSumExp, part),
                        causal
                    )
                ),
        ];
        return (
            Join(parts.Select(part => part.Q)),
            Join(parts.Select(part => part.K)),
            Join(parts.Select(part => part.V))
        );
    }

    /// <summary>The kernel for the queries' device, type and head size.</summary>
    /// <param name="q">[batch, heads, queries, headDim].</param>
    /// <param name="keys">How many keys the queries attend to.</param>
    /// <exception cref="UserException">There is none.</exception>
    internal static IAttentionKernel For(Tensor q, long keys) =>
        Avx512FlashKernel.IsWorthwhile(q) ? Avx512 : OfLibtorch(q, keys);

    /// <summary>Likewise among libtorch's own operators.</summary>
    /// <param name="q">[batch, heads, queries, headDim].</param>
    /// <param name="keys">How many keys the queries attend to.</param>
    /// <exception cref="UserException">There is none.</exception>
    internal static IAttentionKernel OfLibtorch(Tensor q, long keys)
    {
        IAttentionKernel? kernel = q.device_type switch
        {
            TorchSharp.DeviceType.CPU => Cpu,
            TorchSharp.DeviceType.CUDA => CudaAttention.For(q, keys),
            _ => q.is_floating_point() ? TensorOperations : null,
        };
        return kernel
            ?? throw new UserException(
                $"Attention has no kernel for {q.dtype} on {q.device}: use float32, bfloat16, float16 or float64."
            );
    }

    internal static IEnumerable<(long First, long Count)> Parts(long batch, long largest)
    {
        for (long first = 0; first < batch; first += largest)
            yield return (first, Math.Min(largest, batch - first));
    }

    private static Tensor Slice(Tensor tensor, (long First, long Count) part) =>
        tensor.narrow(0, part.First, part.Count);

    private static Tensor Join(IEnumerable<Tensor> parts) => cat([.. parts], dim: 0).MoveToOuterDisposeScope();
}
