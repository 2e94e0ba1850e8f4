using System.Runtime.InteropServices;
using LongNet.Core.Attention;
using LongNet.Core.Attention.Kernels;
using LongNet.Core.Numerics;
using LongNet.TestKit;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

/// <summary>What can be known of the kernels without a GPU.</summary>
public class AttentionKernelTests
{
    // The CPU's operators in the place of CUDA's, with what those ask of their arguments.
    private const string StandIns = """
        def check(x: Tensor):
            assert x.size(3) % 8 == 0 and x.stride(3) == 1 and x.storage_offset() % 8 == 0, "channels are not aligned"
            for axis in range(3):
                assert x.stride(axis) % 8 == 0, "an axis is not aligned"

        def flash_forward(
            q: Tensor, k: Tensor, v: Tensor, p: float, causal: bool, mask: bool, scale: float
        ) -> Tuple[Tensor, Tensor]:
            check(q)
            check(k)
            check(v)
            return torch._scaled_dot_product_flash_attention_for_cpu(q, k, v, p, causal, scale=scale)

        def flash_backward(
            g: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, from_q: Tensor, from_k: Tensor,
            rows_q: int, rows_k: int, p: float, causal: bool, state: Tensor, unused: Tensor, scale: float
        ) -> Tuple[Tensor, Tensor, Tensor]:
            check(g)
            check(q)
            check(k)
            check(v)
            check(o)
            assert lse.is_contiguous() and rows_q == q.size(2) and rows_k == k.size(2), "log-sum-exp or rows"
            assert state.numel() == 2 and unused.dim() == 0, "state"
            return torch._scaled_dot_product_flash_attention_for_cpu_backward(
                g, q, k, v, o, lse, p, causal, scale=scale)

        def efficient_forward(
            q: Tensor, k: Tensor, v: Tensor, bias: Optional[Tensor], statistics: bool, p: float, causal: bool,
            scale: float
        ) -> Tuple[Tensor, Tensor]:
            check(q)
            check(k)
            check(v)
            o, lse = torch._scaled_dot_product_flash_attention_for_cpu(q, k, v, p, causal, scale=scale)
            return o, torch.constant_pad_nd(lse, [0, (32 - lse.size(2) % 32) % 32], float('inf'))

        def efficient_backward(
            g: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Optional[Tensor], o: Tensor, from_q: Optional[Tensor],
            from_k: Optional[Tensor], rows_q: int, rows_k: int, lse: Tensor, p: float, seed: Tensor, offset: Tensor,
            mask: int, bias_gradient: bool, scale: float
        ) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
            check(g)
            check(q)
            check(k)
            check(v)
            check(o)
            assert o.is_contiguous() and g.is_contiguous() and rows_q == q.size(1) and rows_k == k.size(1), "rows"
            assert lse.is_contiguous() and lse.size(2) % 32 == 0, "log-sum-exp is not aligned"
            assert bool(torch.all(torch.isinf(lse[:, :, rows_q:]))), "padding of the log-sum-exp"
            dq, dk, dv = torch._scaled_dot_product_flash_attention_for_cpu_backward(
                g.transpose(1, 2), q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), o.transpose(1, 2),
                lse.narrow(2, 0, rows_q), p, mask == 1, scale=scale)
            return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2), seed

        """;

    private static readonly TorchScriptModule Flash = new(
        StandIns
            + CudaFlashKernel
                .Source.Replace(
                    "torch._scaled_dot_product_flash_attention_backward(",
                    "flash_backward(",
                    StringComparison.Ordinal
                )
                .Replace("torch._scaled_dot_product_flash_attention(", "flash_forward(", StringComparison.Ordinal)
    );

    private static readonly TorchScriptModule Efficient = new(
        StandIns
            + CudaEfficientKernel
                .Source.Replace("torch._efficient_attention_backward(", "efficient_backward(", StringComparison.Ordinal)
                .Replace(
                    "torch._scaled_dot_product_efficient_attention(",
                    "efficient_forward(",
                    StringComparison.Ordinal
                )
    );

    // Channels that need padding or not, contiguous and strided; and some that begin between two boundaries of 16
    // bytes.
    private static readonly (long HeadDim, bool Causal, bool Strided, long Offset)[] Blocks =
    [
        (5, true, false, 0),
        (8, true, true, 0),
        (8, false, true, 0),
        (12, false, true, 0),
        (40, true, true, 0),
        (1, true, false, 0),
        (8, true, true, 3),
    ];

    [Fact]
    public void Scripts_OfEveryKernel_CompileAndReachTheirOperators()
    {
        using var scope = NewDisposeScope();
        Tensor x = ones(1, 2, 3, 8),
            logSumExp = zeros(1, 2, 3);
        foreach (
            var (script, forward, backward) in new[]
            {
                (
                    CudaFlashKernel.Operators,
                    "aten::_scaled_dot_product_flash_attention",
                    "aten::_scaled_dot_product_flash_attention_backward"
                ),
                (
                    CudaCudnnKernel.Operators,
                    "aten::_scaled_dot_product_cudnn_attention",
                    "aten::_scaled_dot_product_cudnn_attention_backward"
                ),
                (
                    CudaEfficientKernel.Operators,
                    "aten::_scaled_dot_product_efficient_attention",
                    "aten::_efficient_attention_backward"
                ),
            }
        )
        {
            script.Compile();
            // On the CPU it ends there: the arguments fit, the undefined ones included, and only the kernel itself is
            // missing.
            var error = Assert.Throws<ExternalException>(() => script.InvokeTensors("forward", x, x, x, true));
            Assert.Contains(
                $"Could not run '{forward}' with arguments from the 'CPU' backend",
                error.Message,
                StringComparison.Ordinal
            );
            error = Assert.Throws<ExternalException>(() =>
                script.InvokeTensors("backward", x, x, x, x, x, logSumExp, true)
            );
            Assert.Contains(
                $"Could not run '{backward}' with arguments from the 'CPU' backend",
                error.Message,
                StringComparison.Ordinal
            );
        }
    }

    [Fact]
    public void FlashScript_WithTheCpusOperators_EqualsTheCpusKernel() => AssertEqualsCpuKernel(Flash);

    [Fact]
    public void EfficientScript_WithTheCpusOperators_EqualsTheCpusKernel() => AssertEqualsCpuKernel(Efficient);

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void MathKernel_OnTheCpu_EqualsTheCpusKernel(bool causal)
    {
        using var scope = NewDisposeScope();
        Problem problem = Problem.Random(headDim: 8, causal, strided: true, float64);
        IAttentionKernel kernel = new MathKernel(),
            reference = new CpuFlashKernel();
        var (output, logSumExp) = kernel.Forward(problem.Q, problem.K, problem.V, causal);
        var (expected, expectedLogSumExp) = reference.Forward(problem.Q, problem.K, problem.V, causal);
        // float64 rounding of sums of a few dozen terms.
        Compare.AssertClose(output, expected, 1e-13, "output");
        Compare.AssertClose(logSumExp, expectedLogSumExp, 1e-13, "log-sum-exp");
        var actual = kernel.Backward(problem.Gradient, problem.Q, problem.K, problem.V, output, logSumExp, causal);
        var exact = reference.Backward(
            problem.Gradient,
            problem.Q,
            problem.K,
            problem.V,
            expected,
            expectedLogSumExp,
            causal
        );
        Compare.AssertClose(actual.Q, exact.Q, 1e-13, "gradient of q");
        Compare.AssertClose(actual.K, exact.K, 1e-13, "gradient of k");
        Compare.AssertClose(actual.V, exact.V, 1e-13, "gradient of v");
    }

    [Fact]
    public void Parts_OfABatch_CoverItOnce() =>
        Assert.Equal([(0, 4), (4, 4), (8, 1)], AttentionKernels.Parts(batch: 9, largest: 4));

    [Fact]
    public void For_ADeviceWithoutKernel_SaysWhichHaveOne()
    {
        using Tensor q = zeros([1, 1, 1, 8], dtype: ScalarType.Int64, device: META);
        var error = Assert.Throws<UserException>(() => AttentionKernels.For(q, 3));
        Assert.Equal(
            "Attention has no kernel for Int64 on meta: use float32, bfloat16, float16 or float64.",
            error.Message
        );
    }

    private static void AssertEqualsCpuKernel(TorchScriptModule script)
    {
        // TorchScript compiles anew after the first call, so every block runs three times.
        foreach (var (headDim, causal, strided, offset) in Blocks.SelectMany(block => Enumerable.Repeat(block, 3)))
        {
            using var scope = NewDisposeScope();
            Problem problem = Problem.Random(headDim, causal, strided, float32, offset);
            var reference = new CpuFlashKernel();
            Tensor[] forward = script.InvokeTensors("forward", problem.Q, problem.K, problem.V, causal);
            var (output, logSumExp) = reference.Forward(problem.Q, problem.K, problem.V, causal);
            // The same operator on the same numbers; zeros beside them change the order of sums, by a few roundings of
            // 6e-8.
            Compare.AssertClose(forward[0], output, 1e-6, "output");
            Compare.AssertClose(forward[1], logSumExp, 1e-6, "log-sum-exp");

            Tensor mixture = logSumExp.transpose(1, 2).contiguous().transpose(1, 2);
            Tensor[] backward = script.InvokeTensors(
                "backward",
                problem.Gradient,
                problem.Q,
                problem.K,
                problem.V,
                output,
                mixture,
                causal
            );
            var exact = reference.Backward(problem.Gradient, problem.Q, problem.K, problem.V, output, mixture, causal);
            Compare.AssertClose(backward[0], exact.Q, 1e-6, "gradient of q", floor: 1);
            Compare.AssertClose(backward[1], exact.K, 1e-6, "gradient of k", floor: 1);
            Compare.AssertClose(backward[2], exact.V, 1e-6, "gradient of v", floor: 1);
        }
    }

    // Three segments of two heads, 33 queries; other keys where the mask allows it.
    private sealed record Problem(Tensor Q, Tensor K, Tensor V, Tensor Gradient)
    {
        public static Problem Random(long headDim, bool causal, bool strided, ScalarType type, long offset = 0)
        {
            using var generator = new Generator(3);
            var queries = strided
                ? new RowBlock(1, 33, 2, 3, 70, new HeadGroup(1, 1, 2, 2))
                : new RowBlock(0, 33, 1, 3, 33, new HeadGroup(0, 0, 1, 4));
            RowBlock keys = causal ? queries : queries with { Rows = 34 };
            return new Problem(
                queries.View(Normal()),
                keys.View(Normal()),
                keys.View(Normal()),
                queries.View(Normal())
            );

            Tensor Normal() =>
                randn([offset + 220 * 4 * headDim], dtype: type, generator: generator)
                    .narrow(0, offset, 220 * 4 * headDim)
                    .view(1, 220, 4, headDim);
        }
    }
}
