namespace LongNet.Trainer.Doctor;

/// <summary>Groups ranks that report the same, so that a report says it once.</summary>
internal static class RankGroups
{
    /// <summary>Ranks grouped by what they report, in the order of each group's lowest rank.</summary>
    /// <param name="ranks">All ranks.</param>
    /// <param name="value">What a rank reports.</param>
    public static IReadOnlyList<(T Value, IReadOnlyList<RankFacts> Ranks)> By<T>(
        IReadOnlyList<RankFacts> ranks,
        Func<RankFacts, T> value
    )
        where T : notnull =>
        [.. ranks.GroupBy(value).Select(group => (group.Key, (IReadOnlyList<RankFacts>)[.. group]))];

    /// <summary>
    /// One line per group, e.g. "ranks 0-3: core 0"; where there is a single rank, only what it reports.
    /// </summary>
    public static IEnumerable<string> Lines(IReadOnlyList<RankFacts> ranks, Func<RankFacts, string> value) =>
        ranks.Count == 1 ? [value(ranks[0])] : By(ranks, value).Select(group => $"{Names(group.Ranks)}: {group.Value}");

    /// <summary>E.g. "rank 3" or "ranks 0-3, 8".</summary>
    public static string Names(IReadOnlyList<RankFacts> ranks) =>
        (ranks.Count == 1 ? "rank " : "ranks ") + Ranges(ranks.Select(rank => rank.Rank));

    /// <summary>Numbers as ranges, in the way the kernel writes lists: "0-3,8".</summary>
    public static string Ranges(IEnumerable<int> numbers)
    {
        var ranges = new List<(int First, int Last)>();
        foreach (int number in numbers.Order())
        {
            if (ranges.Count > 0 && ranges[^1].Last == number - 1)
                ranges[^1] = (ranges[^1].First, number);
            else
                ranges.Add((number, number));
        }

        return string.Join(
            ',',
            ranges.Select(range => range.First == range.Last ? $"{range.First}" : $"{range.First}-{range.Last}")
        );
    }
}
