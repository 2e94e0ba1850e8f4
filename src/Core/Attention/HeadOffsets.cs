namespace LongNet.Core.Attention;

/// <summary>Which rows of a segment a head keeps: its offset within the dilation.</summary>
public enum HeadOffsets
{
    /// <summary>Head j starts at j mod r (section 2.3 of arXiv:2307.02486).</summary>
    Interleaved,

    /// <summary>Head j starts at j / ⌈H / r⌉, the grouping of the authors' published Python code.</summary>
    Blocked,
}

/// <summary>Heads that share one offset; they are an arithmetic progression, so a strided view selects them.</summary>
/// <param name="Offset">First kept row within a segment.</param>
/// <param name="FirstHead">First head of the group.</param>
/// <param name="HeadStride">Distance between heads of the group.</param>
/// <param name="Heads">Number of heads in the group.</param>
public readonly record struct HeadGroup(long Offset, long FirstHead, long HeadStride, long Heads);

public static class HeadOffsetRules
{
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
}
