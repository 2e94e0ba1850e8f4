using LongNet.Core.Attention;
using LongNet.Core.Numerics;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

public class PaddedSequencesTests
{
    private static readonly long[] Lengths = [37, 0, 50, 8, 1];

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, true)]
    public void Forward_Lengths_EqualsEverySequenceAlone(bool causal, bool useXpos)
    {
        using var scope = NewDisposeScope();
        using var padded = Module(causal, useXpos);
        using var alone = Module(causal, useXpos);
        alone.load_state_dict(padded.state_dict());
        Tensor values = randn([5, 50, 16], dtype: float64),
            cotangent = randn([5, 50, 16], dtype: float64);

        Tensor x = values.clone().requires_grad_();
        Tensor output = padded.forward(x, Lengths);
        BackwardPass.Run(output.mul(cotangent).sum());

        for (int b = 0; b < 5; b++)
        {
            Tensor row = output[b],
                gradient = x.grad![b];
            // Exactly zero: padding is not computed at all.
            Assert.Equal(0, row.narrow(0, Lengths[b], 50 - Lengths[b]).abs().sum().item<double>());
            Assert.Equal(0, gradient.narrow(0, Lengths[b], 50 - Lengths[b]).abs().sum().item<double>());
            if (Lengths[b] == 0)
                continue;
            Tensor own = values.narrow(0, b, 1).narrow(1, 0, Lengths[b]).clone().requires_grad_();
            Tensor expected = alone.forward(own);
            BackwardPass.Run(expected.mul(cotangent.narrow(0, b, 1).narrow(1, 0, Lengths[b])).sum());
            // float64 rounding.
            Compare.AssertClose(row.narrow(0, 0, Lengths[b]), expected[0], 1e-13, $"output of sequence {b}");
            Compare.AssertClose(gradient.narrow(0, 0, Lengths[b]), own.grad![0], 1e-13, $"gradient of sequence {b}");
        }

        foreach (var ((name, a), (_, e)) in padded.named_parameters().Zip(alone.named_parameters()))
        {
            // Sums over sequences, in float64.
            Compare.AssertClose(a.grad!, e.grad!, 1e-12, $"gradient of {name}", floor: 0.1);
        }
    }

    [Fact]
    public void Forward_PaddingThatIsNotANumber_StaysOutside()
    {
        using var scope = NewDisposeScope();
        using var module = Module(causal: false, useXpos: true);
        Tensor x = full([5, 50, 16], double.NaN, dtype: float64);
        for (int b = 0; b < 5; b++)
            x[b].narrow(0, 0, Lengths[b]).normal_();
        x.requires_grad_();
        Tensor output = module.forward(x, Lengths);
        BackwardPass.Run(output.sum());
        Assert.True(output.isfinite().all().item<bool>());
        Assert.True(x.grad!.isfinite().all().item<bool>());
        Assert.All(module.parameters(), parameter => Assert.True(parameter.grad!.isfinite().all().item<bool>()));
    }

    /// <summary>
    /// What the authors' code does with a last segment that is not full: zeros take part in the softmax where nothing
    /// masks them.
    /// </summary>
    [Fact]
    public void Attend_ZerosUpToAWholeSegment_ChangeRowsThatAreNotCausal()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(3);
        Tensor[] inputs =
        [
            .. Enumerable.Range(0, 3).Select(_ => randn([1, 21, 2, 8], dtype: float64, generator: generator)),
        ];
        Tensor[] filled = [.. inputs.Select(x => nn.functional.pad(x, [0, 0, 0, 0, 0, 3]))];
        foreach (bool causal in new[] { true, false })
        {
            var options = new AttentionPattern(new SegmentSchedule(new Branch(8, 1)), causal);
            Tensor own = DilatedAttention.Attend(inputs[0], inputs[1], inputs[2], options);
            Tensor theirs = DilatedAttention.Attend(filled[0], filled[1], filled[2], options).narrow(1, 0, 21);
            // float64 rounding.
            Compare.AssertClose(theirs.narrow(1, 0, 16), own.narrow(1, 0, 16), 1e-13, "rows of full segments");
            double error = Compare.RelativeError(theirs.narrow(1, 16, 5), own.narrow(1, 16, 5));
            // Three keys of logit 0 among eight.
            Assert.True(causal ? error < 1e-13 : error > 0.1, $"causal {causal}: {error}");
        }
    }

    [Fact]
    public void Forward_MistakenLengths_AreNamed()
    {
        using var scope = NewDisposeScope();
        using var module = Module(causal: false, useXpos: false);
        Tensor x = zeros([2, 50, 16], dtype: float64);
        foreach (long[] lengths in new long[][] { [50], [50, 51], [-1, 3] })
        {
            Assert.Equal(
                $"lengths is [{string.Join(", ", lengths)}], but must have one number from 0 to 50 for each "
                    + "of the 2 sequences.",
                Assert.Throws<UserException>(() => module.forward(x, lengths)).Message
            );
        }
    }

    private static DilatedAttention Module(bool causal, bool useXpos)
    {
        var module = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = 16,
                Heads = 2,
                Branches = [new(8, 1), new(16, 2), new(50, 3)],
                Causal = causal,
                Positions = useXpos ? PositionEncoding.XPos : PositionEncoding.None,
            }
        );
        module.to(float64);
        return module;
    }
}
