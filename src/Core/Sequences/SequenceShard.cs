namespace LongNet.Core.Sequences;

/// <summary>
/// One rank's part of a <see cref="SequenceLayout"/>: which token positions the length axis of its tensors holds.
/// </summary>
public sealed class SequenceShard : IEquatable<SequenceShard>
{
    private readonly PositionRange[] ranges;

    internal SequenceShard(IEnumerable<PositionRange> ranges, long totalLength)
    {
        this.ranges = [.. ranges];
        TotalLength = totalLength;
        Length = this.ranges.Sum(range => range.Length);
    }

    /// <summary>The positions, in the order of the length axis.</summary>
    public IReadOnlyList<PositionRange> Ranges => ranges;

    /// <summary>Tokens held.</summary>
    public long Length { get; }

    /// <summary>Tokens of the complete sequence.</summary>
    public long TotalLength { get; }

    /// <summary>The one range of the shard.</summary>
    /// <exception cref="NotSupportedException">The shard has several ranges, which attention does not compute
    /// yet.</exception>
    public PositionRange Range =>
        ranges.Length == 1
            ? ranges[0]
            : throw new NotSupportedException(
                $"Attention needs one range of positions per rank, but this one has {ranges.Length}."
            );

    /// <summary>The shard of a rank that holds the complete sequence.</summary>
    /// <param name="length">Tokens of the sequence.</param>
    public static SequenceShard Complete(long length) => new([new PositionRange(0, length)], length);

    /// <summary>The position of a token.</summary>
    /// <param name="row">Index on the length axis, 0 … <see cref="Length"/> − 1.</param>
    public long PositionOf(long row)
    {
        foreach (PositionRange range in ranges)
        {
            if (row < range.Length)
                return range.First + row;
            row -= range.Length;
        }

        throw new ArgumentOutOfRangeException(nameof(row), $"The shard has only {Length} tokens.");
    }

    /// <summary>The positions of all tokens, in the order of the length axis.</summary>
    public long[] Positions()
    {
        var positions = new long[Length];
        long row = 0;
        foreach (PositionRange range in ranges)
        {
            for (long position = range.First; position < range.End; position++)
                positions[row++] = position;
        }

        return positions;
    }

    /// <summary>Consecutive tokens of the shard.</summary>
    /// <param name="first">Index of the first on the length axis.</param>
    /// <param name="length">Number of tokens.</param>
    public SequenceShard Slice(long first, long length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(first);
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(first + length, Length);
        var slice = new List<PositionRange>();
        long begin = 0;
        foreach (PositionRange range in ranges)
        {
            long from = Math.Max(first, begin),
                to = Math.Min(first + length, begin + range.Length);
            if (from < to)
                slice.Add(new PositionRange(range.First + from - begin, to - from));
            begin += range.Length;
        }

        return new SequenceShard(slice, TotalLength);
    }

    public bool Equals(SequenceShard? other) =>
        other is not null && TotalLength == other.TotalLength && ranges.AsSpan().SequenceEqual(other.ranges);

    public override bool Equals(object? obj) => Equals(obj as SequenceShard);

    public override int GetHashCode() => HashCode.Combine(TotalLength, Length, ranges.FirstOrDefault());
}
