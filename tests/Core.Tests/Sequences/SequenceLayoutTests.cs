using LongNet.Core.Sequences;

namespace LongNet.Core.Tests.Sequences;

public class SequenceLayoutTests
{
    [Fact]
    public void Contiguous_Ranks_HoldOneRangeOfEqualLengthInOrder()
    {
        var layout = SequenceLayout.Contiguous(96, 4);
        Assert.Equal(4, layout.Ranks);
        Assert.Equal(96, layout.TotalLength);
        for (int rank = 0; rank < 4; rank++)
        {
            SequenceShard shard = layout.ShardOf(rank);
            Assert.Equal(new PositionRange(24 * rank, 24), shard.Range);
            Assert.Equal((24L, 96L), (shard.Length, shard.TotalLength));
            Assert.Equal(24 * rank + 5, shard.PositionOf(5));
        }

        Assert.Equal([1, 2], layout.RanksOf(new PositionRange(30, 30)));
    }

    [Fact]
    public void ShardOf_SeveralRanges_SaysEveryPosition()
    {
        var layout = new SequenceLayout([
            [new PositionRange(0, 2), new PositionRange(6, 3)],
            [new PositionRange(2, 4)],
        ]);
        SequenceShard shard = layout.ShardOf(0);
        Assert.Equal(9, layout.TotalLength);
        Assert.Equal([0, 1, 6, 7, 8], shard.Positions());
        Assert.Equal([0, 1, 6, 7, 8], Enumerable.Range(0, 5).Select(row => shard.PositionOf(row)));
        Assert.Equal([1, 6, 7], shard.Slice(1, 3).Positions());
        Assert.Equal(shard, shard.Slice(0, 5));
        Assert.NotEqual(shard, shard.Slice(0, 4));
        Assert.Equal([0, 1], layout.RanksOf(new PositionRange(1, 2)));
        Assert.Throws<ArgumentOutOfRangeException>(() => shard.PositionOf(5));
        Assert.Throws<NotSupportedException>(() => shard.Range);
    }

    [Fact]
    public void Constructor_PositionsTwiceOrNowhere_Refuses()
    {
        Assert.Throws<ArgumentException>(() =>
            new SequenceLayout([
                [new PositionRange(0, 4)],
                [new PositionRange(3, 4)],
            ])
        );
        Assert.Throws<ArgumentException>(() =>
            new SequenceLayout([
                [new PositionRange(0, 4)],
                [new PositionRange(5, 4)],
            ])
        );
        Assert.Throws<ArgumentException>(() => SequenceLayout.Contiguous(10, 3));
    }
}
