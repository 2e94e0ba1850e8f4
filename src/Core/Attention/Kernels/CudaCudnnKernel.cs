using LongNet.Core.Native;
using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// cuDNN's attention as libtorch has it: bfloat16 and float16, up to 128 channels per head, on NVIDIA GPUs of compute
/// capability 8.0 (Ampere) and newer. On Hopper it takes two thirds of the time of <see cref="CudaFlashKernel"/>.
/// </summary>
/// <remarks>
/// cuDNN makes a plan for every shape and every thread at its first use, which takes tenths of a second; forward and
/// backward run on different threads. It reads strided views of queries, keys and values without a copy.
/// </remarks>
internal sealed class CudaCudnnKernel() : OperatorKernel(Operators)
{
    public const long LargestHeadDim = 128;

    internal const string Source =
        CudaScript.Source
        + CudaScript.Undefined
        + """
            def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tuple[Tensor, Tensor]:
                results = torch._scaled_dot_product_cudnn_attention(
                    aligned(q), aligned(k), aligned(v), None, True, 0.0, causal, False, scale=scale_of(q))
                # Its log-sum-exp has an axis more, [batch, heads, queries, 1].
                return results[0].narrow(3, 0, q.size(3)), results[1].view(q.size(0), q.size(1), q.size(2))

            # No bias and no cumulated lengths. The state of the random numbers is not read without dropout; 4 is int64.
            def backward(
                g: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool
            ) -> Tuple[Tensor, Tensor, Tensor]:
                nothing = undefined()
                state = torch.empty([], dtype=4, device=q.device)
                dq, dk, dv = torch._scaled_dot_product_cudnn_attention_backward(
                    aligned(g), aligned(q), aligned(k), aligned(v), aligned(o), lse.contiguous().unsqueeze(-1),
                    state, state, nothing, nothing, nothing, q.size(2), k.size(2), 0.0, causal, scale=scale_of(q))
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

    /// <summary>Whether it can, and is known to be faster than the other kernels.</summary>
    public static bool IsFaster(Tensor q) => Supports(q) && CudaDevice.IsHopper(q.device_index);
}
