namespace LongNet.Core.Attention;

/// <summary>Which rows of a segment a head keeps: its offset within the dilation.</summary>
public enum HeadOffsets
{
    /// <summary>Head j starts at j mod r (section 2.3 of arXiv:2307.02486).</summary>
    Interleaved,

    /// <summary>Head j starts at j / ⌈H / r⌉, the grouping of the authors' published Python code.</summary>
    Blocked,
}

/// <summary>
/// Heads that one strided view selects: an arithmetic progression of heads whose offsets are equal, or rise by one from
/// each head to the next.
/// </summary>
/// <param name="Offset">First kept row within a segment, of the first head.</param>
/// <param name="FirstHead">First head of the group.</param>
/// <param name="HeadStride">Distance between heads of the group.</param>
/// <param name="Heads">Number of heads in the group.</param>
/// <param name="OffsetStride">Difference between the offsets of a head and the one before it: 0 or 1.</param>
internal readonly record struct HeadGroup(
    long Offset,
    long FirstHead,
    long HeadStride,
    long Heads,
    long OffsetStride = 0
)
{
    /// <summary>Some consecutive heads of the group.</summary>
    /// <param name="first">First of them, counted within the group.</param>
    /// <param name="count">How many.</param>
    public HeadGroup Slice(long first, long count) =>
        this with
        {
            Offset = Offset + first * OffsetStride,
            FirstHead = FirstHead + first * HeadStride,
            Heads = count,
        };
}

internal static class HeadOffsetRules
{
    /// <summary>The offset of one head, 0 … dilation − 1.</summary>
    /// <param name="rule">How offsets are dealt out.</param>
    /// <param name="head">The head, j.</param>
    /// <param name="heads">Number of heads, H.</param>
    /// <param name="dilation">Dilation of the branch, r.</param>
    public static long OffsetOf(this HeadOffsets rule, long head, long heads, long dilation) =>
        rule == HeadOffsets.Interleaved ? head % dilation : head / ((heads + dilation - 1) / dilation);

    /// <summary>The groups of heads with equal offsets, every head in exactly one.</summary>
    /// <param name="rule">How offsets are dealt out.</param>
    /// <param name="heads">Number of heads, H.</param>
    /// <param name="dilation">Dilation of the branch, r.</param>
    public static IReadOnlyList<HeadGroup> Groups(this HeadOffsets rule, long heads, long dilation)
    {
        var groups = new List<HeadGroup>();
        if (rule == HeadOffsets.Interleaved)
        {
            for (long offset = 0; offset < Math.Min(heads, dilation); offset++)
                groups.Add(new HeadGroup(offset, offset, dilation, (heads - offset + dilation - 1) / dilation));
            return groups;
        }

        long perOffset = (heads + dilation - 1) / dilation;
        for (long first = 0; first < heads; first += perOffset)
            groups.Add(new HeadGroup(first / perOffset, first, 1, Math.Min(perOffset, heads - first)));
        return groups;
    }

    /// <summary>
    /// The fewest groups of heads that one view each can select. A group may have heads of several offsets if all of
    /// them keep equally many rows. Where the dilation does not divide the rows, the first offsets keep one row more
    /// than the others. Fewer groups are fewer kernel calls, each of more heads for the threads to share.
    /// </summary>
    /// <param name="rule">How offsets are dealt out.</param>
    /// <param name="heads">Number of heads, H.</param>
    /// <param name="dilation">Dilation of the branch, r.</param>
    /// <param name="rows">Rows that the groups are to select from.</param>
    public static IReadOnlyList<HeadGroup> Groups(this HeadOffsets rule, long heads, long dilation, long rows)
    {
        IReadOnlyList<HeadGroup> byOffset = rule.Groups(heads, dilation);
        long offsetsWithExtraRow = rows % dilation,
            headsPerOffset = byOffset[0].Heads;
        if (
            headsPerOffset * (offsetsWithExtraRow > 0 && offsetsWithExtraRow < byOffset.Count ? 2 : 1)
            >= byOffset.Count
        )
            return byOffset;

        // One group takes a head of every offset: the first heads of all offsets, then their second heads, …
        var groups = new List<HeadGroup>();
        for (long place = 0; place < headsPerOffset; place++)
        {
            // Only the last offsets can be short of a head.
            long offsets = byOffset.Count(group => group.Heads > place),
                split = Math.Min(offsetsWithExtraRow, offsets);
            AddRun(0, split, place);
            AddRun(split, offsets, place);
        }

        return groups;

        void AddRun(long first, long end, long place)
        {
            if (first == end)
                return;
            long stride = rule == HeadOffsets.Interleaved ? 1 : headsPerOffset,
                firstHead = byOffset[0].FirstHead + place * byOffset[0].HeadStride + first * stride;
            groups.Add(new HeadGroup(first, firstHead, stride, end - first, OffsetStride: 1));
        }
    }
}
