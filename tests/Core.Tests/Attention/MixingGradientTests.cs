using LongNet.Core.Attention;
using LongNet.Core.Tests.Numerics;
using LongNet.TestKit;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

public class MixingGradientTests
{
    private static readonly SegmentSchedule Schedule = new(new Branch(8, 1), new Branch(24, 3));

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Detached_TwoBranches_EqualsBranchGradientsWithConstantWeights(bool causal)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(7);
        Tensor[] inputs =
        [
            .. Enumerable.Range(0, 3).Select(_ => randn([2, 24, 3, 4], dtype: float64, generator: generator)),
        ];
        Tensor cotangent = randn([2, 24, 3, 4], dtype: float64, generator: generator);

        Tensor[] own = [.. inputs.Select(x => x.detach().clone().requires_grad_())];
        var options = new AttentionPattern(Schedule, causal, MixingGradient: MixingGradient.Detached);
        BackwardPassRunner.Run(DilatedAttention.Attend(own[0], own[1], own[2], options), cotangent);

        // The definition: every branch alone, weighted by its share of the mixture's denominator taken as a number.
        Tensor[] exact = [.. inputs.Select(x => x.detach().clone().requires_grad_())];
        Tensor[] outputs =
        [
            .. Schedule.Select(branch =>
                AttentionOracle.Attend(exact[0], exact[1], exact[2], new(new(branch), causal))
            ),
        ];
        Tensor[] denominators = [.. Schedule.Select(branch => Denominator(exact, new(new(branch), causal)))];
        Tensor total = denominators[0] + denominators[1];
        Tensor mixture =
            (denominators[0] / total).detach() * outputs[0] + (denominators[1] / total).detach() * outputs[1];
        mixture.backward([cotangent]);

        for (int i = 0; i < 3; i++)
            Compare.AssertClose(own[i].grad!, exact[i].grad!, 1e-12, $"gradient of input {i}"); // float64 rounding
    }

    [Fact]
    public void Detached_TwoBranches_DiffersFromExact()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(7);
        Tensor[] inputs =
        [
            .. Enumerable.Range(0, 3).Select(_ => randn([1, 24, 3, 4], dtype: float64, generator: generator)),
        ];
        Tensor[] gradients =
        [
            .. new[] { MixingGradient.Exact, MixingGradient.Detached }.Select(mode =>
            {
                Tensor q = inputs[0].detach().clone().requires_grad_();
                BackwardPassRunner.Run(
                    DilatedAttention.Attend(q, inputs[1], inputs[2], new(Schedule, true, MixingGradient: mode)),
                    inputs[0]
                );
                return q.grad!;
            }),
        ];
        Assert.True(Compare.RelativeError(gradients[1], gradients[0]) > 1e-3);
    }

    // Σ_j exp S_ij over the branch's keys, [batch, length, heads, 1]: the oracle's attention of log-free ones.
    private static Tensor Denominator(Tensor[] inputs, AttentionPattern options)
    {
        // The oracle's softmax over (keys, one more key of logit 0 and value 1) would give it too; the direct sum is
        // plainer.
        long length = inputs[0].shape[1],
            heads = inputs[0].shape[2];
        Tensor scores = einsum("bihd,bjhd->bhij", inputs[0], inputs[1]).div(Math.Sqrt(inputs[0].shape[3])).exp();
        var kept = new double[heads * length * length];
        Branch branch = options.Schedule[0];
        for (long h = 0; h < heads; h++)
        {
            for (long i = 0; i < length; i++)
            {
                for (long j = 0; j < length; j++)
                {
                    bool together =
                        i / branch.SegmentLength == j / branch.SegmentLength
                        && (!options.Causal || j <= i)
                        && i % branch.SegmentLength % branch.Dilation == h % branch.Dilation
                        && j % branch.SegmentLength % branch.Dilation == h % branch.Dilation;
                    kept[(h * length + i) * length + j] = together ? 1 : 0;
                }
            }
        }

        return (scores * tensor(kept, [heads, length, length])).sum(dim: -1).transpose(1, 2).unsqueeze(-1);
    }
}
