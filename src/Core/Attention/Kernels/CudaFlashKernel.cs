using LongNet.Core.Native;
using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// FlashAttention-2 as libtorch has it: bfloat16 and float16, up to 256 channels per head, on NVIDIA GPUs of compute
/// capability 8.0 (Ampere) and newer.
/// </summary>
internal sealed class CudaFlashKernel() : OperatorKernel(Operators)
{
    public const long LargestHeadDim = 256;

    internal const string Source =
        CudaScript.Source
        + CudaScript.Undefined
        + """
            def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tuple[Tensor, Tensor]:
                results = torch._scaled_dot_product_flash_attention(
                    aligned(q), aligned(k), aligned(v), 0.0, causal, False, scale=scale_of(q))
                return results[0].narrow(3, 0, q.size(3)), results[1].narrow(2, 0, q.size(2))

            # No cumulated lengths: the batch is dense. The state of the random numbers is not read without dropout; 29
            # is uint64.
            def backward(
                g: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool
            ) -> Tuple[Tensor, Tensor, Tensor]:
                lengths = undefined()
                state = torch.empty([2], dtype=29, device=q.device)
                unused = torch.empty([], dtype=29, device=q.device)
                dq, dk, dv = torch._scaled_dot_product_flash_attention_backward(
                    aligned(g), aligned(q), aligned(k), aligned(v), aligned(o), lse.contiguous(),
                    lengths, lengths, q.size(2), k.size(2), 0.0, causal, state, unused, scale=scale_of(q))
                channels = q.size(3)
                return dq.narrow(3, 0, channels), dk.narrow(3, 0, channels), dv.narrow(3, 0, channels)
            """;

    internal static readonly TorchScriptModule Operators = new(Source);

    public override long LargestBatch => CudaScript.LargestBatch;

    /// <summary>Whether the kernel can compute tensors like this one.</summary>
    public static bool Supports(Tensor q) =>
        q.dtype is ScalarType.BFloat16 or ScalarType.Float16
        && q.shape[3] <= LargestHeadDim
        && CudaDevice.IsAmpereOrNewer(q.device_index);
}
