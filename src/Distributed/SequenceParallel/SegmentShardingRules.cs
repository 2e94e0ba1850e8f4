using LongNet.Core;
using LongNet.Core.Attention;

namespace LongNet.Distributed.SequenceParallel;

/// <summary>
/// Which segment lengths a sharded sequence allows: a segment divides a rank's rows, or whole ranks make up a segment.
/// </summary>
public static class SegmentShardingRules
{
    /// <summary>Whether segments of this length lie whole on ranks, or are made up of whole ranks.</summary>
    /// <param name="segmentLength">w; at most the whole sequence.</param>
    /// <param name="tokensPerRank">ℓ.</param>
    /// <param name="ranks">Ranks that share the sequence.</param>
    public static bool Fits(long segmentLength, long tokensPerRank, int ranks) =>
        ranks == 1 || segmentLength % tokensPerRank == 0 || tokensPerRank % segmentLength == 0;

    /// <summary>
    /// Refuses a schedule that does not fit, with what would. Pure: no collective, the same on every rank.
    /// </summary>
    /// <exception cref="UserException">A branch does not fit; names it, the numbers, and the nearest that
    /// works.</exception>
    public static void Validate(SegmentSchedule schedule, long sequenceLength, int ranks)
    {
        ArgumentNullException.ThrowIfNull(schedule);
        if (sequenceLength % ranks != 0)
        {
            throw new UserException(
                $"A sequence of {sequenceLength} rows cannot be shared evenly by {ranks} ranks: choose a "
                    + $"sequence length that is a multiple of {ranks}, "
                    + $"such as {(sequenceLength / ranks + 1) * ranks}."
            );
        }

        long tokensPerRank = sequenceLength / ranks;
        foreach (Branch branch in schedule)
        {
            if (!Fits(Math.Min(branch.SegmentLength, sequenceLength), tokensPerRank, ranks))
                throw new UserException(Explain(branch, schedule, tokensPerRank, ranks));
        }
    }

    internal static string Explain(Branch branch, IEnumerable<Branch> schedule, long tokensPerRank, int ranks)
    {
        long w = branch.SegmentLength,
            sequenceLength = tokensPerRank * ranks;
        long[] lengths =
        [
            .. Candidates(tokensPerRank, ranks).OrderBy(length => Math.Abs(length - w)).ThenBy(length => length),
        ];
        int rankCount = Enumerable
            .Range(1, ranks)
            .Where(count =>
                sequenceLength % count == 0
                && schedule.All(each =>
                    Fits(Math.Min(each.SegmentLength, sequenceLength), sequenceLength / count, count)
                )
            )
            .Max();
        return $"Branch {branch} does not fit {ranks} ranks with {tokensPerRank} rows each: a segment must divide a "
            + "rank's rows or be a multiple of them. "
            + $"The nearest segment length that works is {lengths[0]}; with the schedule as it is, {rankCount} "
            + $"rank{(rankCount == 1 ? "" : "s")} can share the sequence.";
    }

    private static IEnumerable<long> Candidates(long tokensPerRank, int ranks)
    {
        for (long divisor = 1; divisor * divisor <= tokensPerRank; divisor++)
        {
            if (tokensPerRank % divisor == 0)
            {
                yield return divisor;
                yield return tokensPerRank / divisor;
            }
        }

        for (long multiple = 2; multiple <= ranks; multiple++)
            yield return multiple * tokensPerRank;
    }
}
