using LongNet.Core.Attention;
using LongNet.Core.Sequences;
using LongNet.TestKit;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

public class RotaryPositionsTests
{
    private static readonly SegmentSchedule Schedule = new(new Branch(16, 1), new Branch(48, 3));

    [Fact]
    public void Rotate_Logits_DependOnDistanceAlone()
    {
        using var scope = NewDisposeScope();
        using var xPos = RotaryPositions.XPos(8, Schedule);
        using var generator = new Generator(3);
        Tensor row = randn([1, 1, 1, 8], dtype: float64, generator: generator);
        var (q, k) = xPos.Rotate(row.expand(1, 96, 1, 8), row.expand(1, 96, 1, 8), SequenceShard.Complete(96));
        Tensor logits = q.view(96, 8).matmul(k.view(96, 8).t());

        // Rows 5 and 2 of the first block of 48, and the rows as far apart in the same and in the next block.
        double expected = logits[5, 2].item<double>();
        Assert.Equal(expected, logits[40, 37].item<double>(), 1e-12); // float64 rounding
        Assert.Equal(expected, logits[53, 50].item<double>(), 1e-12);
    }

    [Fact]
    public void Rotate_Logits_EqualTheFormula()
    {
        using var scope = NewDisposeScope();
        using var xPos = RotaryPositions.XPos(4, Schedule);
        Tensor x = ones([1, 48, 1, 4], dtype: float64);
        var (q, k) = xPos.Rotate(x, x, SequenceShard.Complete(48));
        double logit = q.view(48, 4)[30].dot(k.view(48, 4)[9]).item<double>();

        // Σ over pairs of ζ^(21/512) · 2 cos(21 θ): both elements of a pair are 1.
        double expected = Enumerable
            .Range(0, 2)
            .Sum(i =>
                Math.Pow((2.0 * i / 4 + 0.4) / 1.4, 21 / 512.0) * 2 * Math.Cos(21 * Math.Pow(10000, -2.0 * i / 4))
            );
        Assert.Equal(expected, logit, 1e-12); // float64 rounding
    }

    /// <summary>
    /// Signs, pairs, scale and centre are those of microsoft/torchscale, whose rows count from the middle of the
    /// sequence.
    /// </summary>
    [Fact]
    public void XPos_OverOneBlock_RotatesAsTheAuthorsDo()
    {
        using var scope = NewDisposeScope();
        using var xPos = RotaryPositions.XPos(8, Schedule);
        using var generator = new Generator(3);
        Tensor x = randn([1, 48, 1, 8], dtype: float64, generator: generator);
        var (q, k) = xPos.Rotate(x, x, SequenceShard.Complete(48));
        double[] input = x.data<double>().ToArray();
        var expectedQ = new double[48 * 8];
        var expectedK = new double[48 * 8];
        for (int n = 0; n < 48; n++)
        {
            for (int i = 0; i < 4; i++)
            {
                double angle = n * Math.Pow(10000, -i / 4.0),
                    scale = Math.Pow((2 * i + 0.4 * 8) / (1.4 * 8), (n - 24) / 512.0);
                int even = n * 8 + 2 * i,
                    odd = even + 1;
                double first = input[even] * Math.Cos(angle) - input[odd] * Math.Sin(angle),
                    second = input[odd] * Math.Cos(angle) + input[even] * Math.Sin(angle);
                (expectedQ[even], expectedQ[odd], expectedK[even], expectedK[odd]) = (
                    first * scale,
                    second * scale,
                    first / scale,
                    second / scale
                );
            }
        }

        Compare.AssertClose(q, tensor(expectedQ, [1, 48, 1, 8]), 1e-13, "queries"); // float64 rounding
        Compare.AssertClose(k, tensor(expectedK, [1, 48, 1, 8]), 1e-13, "keys");
    }

    [Fact]
    public void Rotate_Shards_EqualTheWhole()
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(3);
        Tensor x = randn([2, 96, 3, 8], dtype: float32, generator: generator);
        using var whole = RotaryPositions.XPos(8, Schedule);
        var (q, k) = whole.Rotate(x, x, SequenceShard.Complete(96));
        for (long first = 0; first < 96; first += 32)
        {
            using var part = RotaryPositions.XPos(8, Schedule);
            var (partQ, partK) = part.Rotate(
                x.narrow(1, first, 32),
                x.narrow(1, first, 32),
                SequenceShard.Complete(96).Slice(first, 32)
            );
            Compare.AssertClose(partQ, q.narrow(1, first, 32), 0, "shard of q");
            Compare.AssertClose(partK, k.narrow(1, first, 32), 0, "shard of k");
        }
    }

    [Fact]
    public void Rotate_FarPosition_KeepsAnglesExact()
    {
        using var scope = NewDisposeScope();
        const long Far = 1_000_000_000;
        using var xPos = RotaryPositions.XPos(4, new SegmentSchedule(new Branch(16, 1)));
        Tensor x = ones([1, 16, 1, 4], dtype: float32);
        var (q, _) = xPos.Rotate(x, x, SequenceShard.Complete(Far + 16).Slice(Far, 16));
        for (int i = 0; i < 2; i++)
        {
            // decimal has 28 digits: the angle itself is exact before its cosine is taken.
            decimal angle = (Far + 3) * (decimal)Math.Pow(10000, -2.0 * i / 4) % (decimal)(2 * Math.PI);
            double scale = Math.Pow((2.0 * i / 4 + 0.4) / 1.4, ((Far + 3) % 16 - 8) / 512.0);
            double expected = scale * (Math.Cos((double)angle) - Math.Sin((double)angle));

            // float32 keeps 6e-8; reducing by a rounded 2π costs 1e9 · 1e-16 turns more.
            Assert.Equal(expected, q[0, 3, 0, 2 * i].item<float>(), 1e-6);
        }
    }

    [Fact]
    public void Rotate_BlocksTooLong_SaysTheLongestThatWorks()
    {
        using var scope = NewDisposeScope();
        using var xPos = RotaryPositions.XPos(4, new SegmentSchedule(new Branch(1 << 20, 1)));
        Tensor x = zeros([1, 4, 1, 4]);
        var error = Assert.Throws<UserException>(() => xPos.Rotate(x, x, SequenceShard.Complete(1 << 20).Slice(0, 4)));
        Assert.Equal(
            "xPos over blocks of 1048576 rows (the least common multiple of the segment lengths, or the "
                + "whole sequence) needs scales up to "
                + "e^1283, more than Float32 holds; blocks of at most 40869 rows work: shorten the longest "
                + "segment or choose segment lengths that divide it.",
            error.Message
        );
    }

    [Fact]
    public void Rotate_LongestBlock_StaysFiniteAndInvertible()
    {
        using var scope = NewDisposeScope();
        using var xPos = RotaryPositions.XPos(64, new SegmentSchedule(new Branch(40869, 1)));
        Tensor x = ones([1, 40869, 1, 64], dtype: float32);
        var (q, k) = xPos.Rotate(x, x, SequenceShard.Complete(40869));

        // A row with itself: every pair gives ζ⁰ · 2.
        // Float32 rounding.
        Compare.AssertClose((q * k).sum(dim: -1), full_like(q.select(3, 0), 64.0), 1e-5, "logit of a row with itself");
    }

    [Fact]
    public void Rope_Rotate_IsTheFormulaAndKeepsLengths()
    {
        using var scope = NewDisposeScope();
        using var rope = RotaryPositions.Rope(4);
        Tensor x = ones([1, 48, 1, 4], dtype: float64);
        var (q, k) = rope.Rotate(x, x, SequenceShard.Complete(2000).Slice(1000, 48));
        double logit = q.view(48, 4)[30].dot(k.view(48, 4)[9]).item<double>();
        double expected = Enumerable.Range(0, 2).Sum(i => 2 * Math.Cos(21 * Math.Pow(10000, -2.0 * i / 4)));
        Assert.Equal(expected, logit, 1e-12); // float64 rounding
        Compare.AssertClose(q.norm(-1), x.norm(-1), 1e-14, "lengths");
        Compare.AssertClose(q, k, 0, "queries and keys");
    }

    [Fact]
    public void Rope_FarPosition_KeepsAnglesExactWhateverTheSegments()
    {
        using var scope = NewDisposeScope();
        const long Far = 1_000_000_000;
        using var rope = RotaryPositions.Rope(2);
        Tensor x = ones([1, 4, 1, 2], dtype: float32);
        var (q, _) = rope.Rotate(x, x, SequenceShard.Complete(2 * Far).Slice(Far, 4));
        double angle = (double)((Far + 3) % (decimal)(2 * Math.PI));
        // float32 keeps 6e-8; reducing by a rounded 2π costs 1e9 · 1e-16 turns more.
        Assert.Equal(Math.Cos(angle) - Math.Sin(angle), q[0, 3, 0, 0].item<float>(), 1e-6);
    }

    [Fact]
    public void XPos_LongestBlockAndSmallestGradients_StayExact()
    {
        // A mean over 10⁹ tokens hands in gradients of about 1e-10; keys at a block's end carry scales of e^-50 beside
        // them.
        const long Length = 40869;
        using var scope = NewDisposeScope();
        using var generator = new Generator(2);
        var options = new AttentionPattern(new SegmentSchedule(new Branch(Length, 64)), Causal: true);
        Tensor[] inputs =
        [
            .. Enumerable.Range(0, 3).Select(_ => randn([1, Length, 1, 8], dtype: float64, generator: generator)),
        ];
        Tensor[] single = Gradients(float32),
            exact = Gradients(float64);
        for (int i = 0; i < 3; i++)
            Compare.AssertClose(single[i], exact[i], 1e-5, $"gradient {i}"); // float32 rounding

        Tensor[] Gradients(ScalarType type)
        {
            using var xPos = RotaryPositions.XPos(8, options.Schedule);
            Tensor[] leaves = [.. inputs.Select(x => x.to(type).requires_grad_())];
            var (q, k) = xPos.Rotate(leaves[0], leaves[1], SequenceShard.Complete(Length));
            Tensor output = DilatedAttention.Attend(q, k, leaves[2], options);
            Numerics.BackwardPassRunner.Run(output, full_like(output, 1e-10));
            return [.. leaves.Select(leaf => leaf.grad!)];
        }
    }
}
