using LongNet.Core.Numerics;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// The CPU's fused operator: float32, float64, bfloat16 and float16; strided views are taken as they are.
/// </summary>
internal sealed class CpuFlashKernel() : OperatorKernel(Operators)
{
    private static readonly TorchScriptModule Operators = new(
        """
        def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tuple[Tensor, Tensor]:
            return torch._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)

        def backward(
            g: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool
        ) -> Tuple[Tensor, Tensor, Tensor]:
            return torch._scaled_dot_product_flash_attention_for_cpu_backward(g, q, k, v, o, lse, 0.0, causal)
        """
    );

    public override long LargestBatch => long.MaxValue;
}
