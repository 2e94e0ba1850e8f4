using LongNet.Core.Attention;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

public class RowBlockTests
{
    private const long HeadDim = 2;

    public static TheoryData<long, long, long, long, HeadOffsets> Shapes()
    {
        var data = new TheoryData<long, long, long, long, HeadOffsets>();
        foreach (HeadOffsets offsets in Enum.GetValues<HeadOffsets>())
        {
            foreach (
                var (heads, w, r) in new (long, long, long)[]
                {
                    (4, 16, 4),
                    (8, 16, 4),
                    (6, 16, 4),
                    (3, 16, 8),
                    (12, 12, 4),
                    (7, 12, 3),
                    (5, 10, 4),
                    (1, 16, 2),
                    (4, 16, 1),
                    (2, 3, 5),
                }
            )
            {
                foreach (long length in new[] { 48L, 50, 7 })
                    data.Add(heads, w, r, length, offsets);
            }
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(Shapes))]
    public void OfBranch_AnyShape_HoldsEveryKeptRowOfEveryHeadOnce(
        long heads,
        long w,
        long r,
        long length,
        HeadOffsets offsets
    )
    {
        // The middle sequences of five, and all but the first segment and the last row of each.
        foreach (
            RowRange range in new[]
            {
                RowRange.Whole(5, length),
                new RowRange(1, 3, length, Math.Min(w, length), Math.Max(0, length - w - 1)),
            }
        )
        {
            using var scope = NewDisposeScope();
            Tensor counts = zeros([5, length, heads, HeadDim], dtype: float64),
                statistic = zeros([5, length, heads], dtype: float64);
            RowBlock[] blocks = [.. RowBlock.OfBranch(new Branch(w, r), offsets, heads, range)];
            foreach (RowBlock block in blocks)
                CountIn(block, counts, statistic);
            for (long sequence = 0; sequence < 5; sequence++)
            {
                for (long row = 0; row < length; row++)
                {
                    for (long head = 0; head < heads; head++)
                    {
                        long offset = offsets == HeadOffsets.Interleaved ? head % r : head / ((heads + r - 1) / r);
                        Assert.Equal(offset, offsets.OffsetOf(head, heads, r));
                        long inRange = row - range.FirstRow,
                            inSegment = inRange % w;
                        bool kept =
                            sequence >= range.FirstSequence
                            && sequence < range.FirstSequence + range.Sequences
                            && inRange >= 0
                            && inRange < range.Rows
                            && inSegment >= offset
                            && (inSegment - offset) % r == 0;
                        Assert.Equal(kept ? 1 : 0, statistic[sequence, row, head].item<double>());
                    }
                }
            }

            Assert.True(counts.eq(statistic.unsqueeze(-1)).all().item<bool>());
        }
    }

    [Theory]
    [MemberData(nameof(Shapes))]
    public void Split_AnySize_HoldsTheSameElementsOnce(long heads, long w, long r, long length, HeadOffsets offsets)
    {
        foreach (var (elements, leastHeads) in new (long, long)[] { (1, 1), (20, 1), (100, 3), (1, 7), (1 << 20, 1) })
        {
            using var scope = NewDisposeScope();
            Tensor whole = zeros([3, length, heads, HeadDim], dtype: float64),
                parts = zeros_like(whole);
            Tensor wholeStatistic = zeros([3, length, heads], dtype: float64),
                partsStatistic = zeros_like(wholeStatistic);
            foreach (RowBlock block in RowBlock.OfBranch(new Branch(w, r), offsets, heads, RowRange.Whole(3, length)))
            {
                CountIn(block, whole, wholeStatistic);
                RowBlock[] split = [.. block.Split(HeadDim, elements, leastHeads)];
                foreach (RowBlock part in split)
                {
                    CountIn(part, parts, partsStatistic);
                    long ofHead = part.Rows * HeadDim,
                        units = part.Segments * part.Group.Heads;
                    Assert.True(
                        units <= Math.Max(Math.Max(1, leastHeads), elements / ofHead),
                        $"{part} is larger than {elements} elements or {leastHeads} heads."
                    );
                }
            }

            Assert.True(whole.eq(parts).all().item<bool>());
            Assert.True(wholeStatistic.eq(partsStatistic).all().item<bool>());
        }
    }

    /// <summary>
    /// What the fewest groups are for: one call where offsets keep equally many rows, however they are dealt out.
    /// </summary>
    [Theory]
    [InlineData(HeadOffsets.Interleaved, 4, 8, 64, 1)]
    [InlineData(HeadOffsets.Interleaved, 8, 8, 64, 1)]
    [InlineData(HeadOffsets.Interleaved, 8, 4, 64, 2)]
    [InlineData(HeadOffsets.Interleaved, 8, 2, 64, 2)]
    [InlineData(HeadOffsets.Blocked, 8, 8, 64, 1)]
    [InlineData(HeadOffsets.Blocked, 8, 4, 64, 2)]
    [InlineData(HeadOffsets.Interleaved, 8, 8, 60, 2)]
    [InlineData(HeadOffsets.Interleaved, 12, 12, 32768, 2)]
    [InlineData(HeadOffsets.Interleaved, 12, 6, 16384, 4)]
    [InlineData(HeadOffsets.Blocked, 12, 6, 16384, 4)]
    [InlineData(HeadOffsets.Interleaved, 12, 3, 16384, 3)]
    [InlineData(HeadOffsets.Interleaved, 4, 8, 2, 2)]
    public void Groups_OfHeads_AreFew(HeadOffsets offsets, long heads, long dilation, long rows, int expected) =>
        Assert.Equal(expected, offsets.Groups(heads, dilation, rows).Count);

    private static void CountIn(RowBlock block, Tensor elements, Tensor statistic)
    {
        // Not += on the view: a view with an element twice would count it once.
        Add(block.View(elements));
        Add(block.ViewLogSumExp(statistic));

        static void Add(Tensor view)
        {
            long[] shape = view.shape;
            for (long s = 0; s < shape[0]; s++)
            {
                for (long h = 0; h < shape[1]; h++)
                    view[s][h].copy_(view[s][h] + 1);
            }
        }
    }
}
