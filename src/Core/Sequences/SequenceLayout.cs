namespace LongNet.Core.Sequences;

/// <summary>Consecutive positions of a sequence.</summary>
/// <param name="First">First position.</param>
/// <param name="Length">Number of positions.</param>
public readonly record struct PositionRange(long First, long Length)
{
    /// <summary>The position after the last.</summary>
    public long End => First + Length;

    /// <summary>Whether the two have a position in common.</summary>
    public bool Overlaps(PositionRange other) => Math.Max(First, other.First) < Math.Min(End, other.End);
}

/// <summary>
/// Which token positions of a sequence every rank holds: ordered ranges per rank, every position on exactly one rank.
/// </summary>
/// <remarks>
/// Everything that depends on where a token lies asks the layout, or the <see cref="SequenceShard"/> of a rank: causal
/// masks, rotary positions, dropout, decoding, data reading and planning. Nothing else knows which rank holds what.
/// </remarks>
public sealed class SequenceLayout
{
    private readonly SequenceShard[] shards;

    /// <param name="ranks">The ranges of every rank, in the order in which its tensors hold them.</param>
    /// <exception cref="ArgumentException">A position is on no rank, or on several.</exception>
    public SequenceLayout(IReadOnlyList<IReadOnlyList<PositionRange>> ranks)
    {
        ArgumentNullException.ThrowIfNull(ranks);
        foreach (PositionRange range in ranks.SelectMany(ranges => ranges).OrderBy(range => range.First))
        {
            if (range.Length < 0 || range.First != TotalLength)
                throw new ArgumentException(
                    $"The ranges of a sequence layout must cover every position once, but {range} follows "
                        + $"position {TotalLength - 1}.",
                    nameof(ranks)
                );
            TotalLength = range.End;
        }

        shards = [.. ranks.Select(ranges => new SequenceShard(ranges, TotalLength))];
    }

    /// <summary>Tokens of the complete sequence.</summary>
    public long TotalLength { get; }

    /// <summary>Ranks that share the sequence.</summary>
    public int Ranks => shards.Length;

    /// <summary>One range of equal length per rank, in rank order.</summary>
    /// <param name="totalLength">Tokens of the complete sequence; a multiple of <paramref name="ranks"/>.</param>
    /// <param name="ranks">Ranks that share the sequence.</param>
    /// <exception cref="ArgumentException">The ranks do not divide the sequence.</exception>
    public static SequenceLayout Contiguous(long totalLength, int ranks)
    {
        if (ranks < 1 || totalLength % ranks != 0)
            throw new ArgumentException(
                $"A sequence of {totalLength} tokens has no equal ranges on {ranks} ranks.",
                nameof(ranks)
            );
        long length = totalLength / ranks;
        return new SequenceLayout([
            .. Enumerable.Range(0, ranks).Select(rank => new[] { new PositionRange(rank * length, length) }),
        ]);
    }

    /// <summary>What a rank holds.</summary>
    public SequenceShard ShardOf(int rank) => shards[rank];

    /// <summary>The ranks that hold a position of the range, in rank order.</summary>
    public IReadOnlyList<int> RanksOf(PositionRange range) =>
        [.. Enumerable.Range(0, Ranks).Where(rank => shards[rank].Ranges.Any(each => each.Overlaps(range)))];
}
