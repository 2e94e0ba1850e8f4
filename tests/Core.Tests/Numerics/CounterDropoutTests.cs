using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using LongNet.TestKit;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Numerics;

public class CounterDropoutTests
{
    private static readonly RandomStream Stream = new RandomStream(0).Derive(1).Derive("test");
    private static readonly SequenceShard Sequence = SequenceShard.Complete(40);

    [Fact]
    public void Mask_Shards_EqualTheWhole()
    {
        using var scope = NewDisposeScope();
        Tensor whole = CounterDropout.Mask([3, 40, 7], 0.3, new DropoutContext(Stream, [10, 11, 12], Sequence), "site");
        Tensor shard = CounterDropout.Mask(
            [2, 16, 7],
            0.3,
            new DropoutContext(Stream, [11, 12], Sequence.Slice(24, 16)),
            "site"
        );
        Compare.AssertClose(shard, whole.narrow(0, 1, 2).narrow(1, 24, 16), 0, "shard of the mask");
    }

    [Fact]
    public void Mask_ShardOfSeveralRanges_GoesByPosition()
    {
        using var scope = NewDisposeScope();
        SequenceShard ends = new SequenceLayout([
            [new PositionRange(30, 10), new PositionRange(0, 10)],
            [new PositionRange(10, 20)],
        ]).ShardOf(0);
        Tensor whole = CounterDropout.Mask([1, 40, 7], 0.3, new DropoutContext(Stream, [5], Sequence), "site");
        Tensor shard = CounterDropout.Mask([1, 20, 7], 0.3, new DropoutContext(Stream, [5], ends), "site");
        Tensor expected = cat([whole.narrow(1, 30, 10), whole.narrow(1, 0, 10)], dim: 1);
        Compare.AssertClose(shard, expected, 0, "ends of the mask");
    }

    [Fact]
    public void Mask_OtherSiteOrStream_Differs()
    {
        using var scope = NewDisposeScope();
        Tensor mask = CounterDropout.Mask(
            [1, 8, 8],
            0.5,
            new DropoutContext(Stream, [0], SequenceShard.Complete(8)),
            "site"
        );
        Assert.True(
            Compare.RelativeError(
                CounterDropout.Mask(
                    [1, 8, 8],
                    0.5,
                    new DropoutContext(Stream, [0], SequenceShard.Complete(8)),
                    "other"
                ),
                mask
            ) > 0
        );
        Assert.True(
            Compare.RelativeError(
                CounterDropout.Mask(
                    [1, 8, 8],
                    0.5,
                    new DropoutContext(Stream.Derive(1), [0], SequenceShard.Complete(8)),
                    "site"
                ),
                mask
            ) > 0
        );
    }

    [Theory]
    [InlineData(0.1)]
    [InlineData(0.5)]
    [InlineData(0.9)]
    public void Mask_ManyElements_DropsTheShareAndKeepsTheMean(double probability)
    {
        using var scope = NewDisposeScope();
        Tensor mask = CounterDropout.Mask(
            [4, 500, 501],
            probability,
            new DropoutContext(Stream, [0, 1, 2, 3], SequenceShard.Complete(500)),
            "site"
        );
        double dropped = mask.eq(0).to(float64).mean().item<double>();

        // Six standard deviations of a million coin flips.
        double deviation = Math.Sqrt(probability * (1 - probability) / mask.NumberOfElements);
        Assert.InRange(dropped, probability - 6 * deviation, probability + 6 * deviation);
        Assert.Equal((float)(1 / (1 - probability)), mask.max().item<float>());
    }

    [Fact]
    public void Apply_Backward_UsesTheSameMask()
    {
        using var scope = NewDisposeScope();
        var context = new DropoutContext(Stream, [5], SequenceShard.Complete(6));
        Tensor x = ones([1, 6, 5]).requires_grad_();
        Tensor y = CounterDropout.Apply(x, 0.4, context, "site");
        y.sum().backward();
        Compare.AssertClose(x.grad!, y, 0, "gradient of ones");
    }
}
