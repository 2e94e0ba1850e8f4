using LongNet.Core.Numerics;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// The memory-efficient attention of libtorch (from xFormers and CUTLASS): float32 on any NVIDIA GPU, and the 16-bit
/// types where <see cref="CudaFlashKernel"/> does not take them.
/// </summary>
internal sealed class CudaEfficientKernel() : OperatorKernel(Operators)
{
    internal const string Source =
        CudaScript.Source
        + """
            # The kernel pads the log-sum-exp to a multiple of 32 queries.
            def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tuple[Tensor, Tensor]:
                results = torch._scaled_dot_product_efficient_attention(
                    aligned(q), aligned(k), aligned(v), None, True, 0.0, causal, scale=scale_of(q))
                return results[0].narrow(3, 0, q.size(3)), results[1].narrow(2, 0, q.size(2))

            # And wants it so padded again: +inf gives the queries that are not there the probability 0.
            def padded(lse: Tensor) -> Tensor:
                missing = (32 - lse.size(2) % 32) % 32
                if missing > 0:
                    lse = torch.constant_pad_nd(lse, [0, missing], float('inf'))
                return lse.contiguous()

            # The kernel's own axes: [batch, rows, heads, channels]. Of the output it takes the rows to be dense.
            def rows_first(x: Tensor) -> Tensor:
                return aligned(x).transpose(1, 2)

            # Mask 1 is causal, 0 none. The state of the random numbers is not read without dropout; 4 is int64.
            def backward(
                g: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool
            ) -> Tuple[Tensor, Tensor, Tensor]:
                mask = 1 if causal else 0
                state = torch.empty([], dtype=4, device=q.device)
                dq, dk, dv, _ = torch._efficient_attention_backward(
                    rows_first(g).contiguous(), rows_first(q), rows_first(k), rows_first(v), None,
                    rows_first(o).contiguous(), None, None, q.size(2), k.size(2), padded(lse),
                    0.0, state, state, mask, False, scale=scale_of(q))
                channels = q.size(3)
                return (dq.transpose(1, 2).narrow(3, 0, channels), dk.transpose(1, 2).narrow(3, 0, channels),
                    dv.transpose(1, 2).narrow(3, 0, channels))
            """;

    internal static readonly TorchScriptModule Operators = new(Source);

    public override long LargestBatch => CudaScript.LargestBatch;
}
