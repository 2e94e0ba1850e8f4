namespace LongNet.Trainer.Doctor;

/// <summary>Tells what ranks have in common once.</summary>
internal static class RankFolding
{
    /// <summary>Ranks that say the same, in the order of their lowest.</summary>
    /// <param name="ranks">All ranks.</param>
    /// <param name="value">What a rank says.</param>
    public static IReadOnlyList<(T Value, IReadOnlyList<RankFacts> Ranks)> By<T>(
        IReadOnlyList<RankFacts> ranks,
        Func<RankFacts, T> value
    )
        where T : notnull =>
        [.. ranks.GroupBy(value).Select(group => (group.Key, (IReadOnlyList<RankFacts>)[.. group]))];

    /// <summary>
    /// One text per group of ranks that say the same, e.g. "ranks 0-3: core 0"; of a single rank, just what it says.
    /// </summary>
    public static IEnumerable<string> Lines(IReadOnlyList<RankFacts> ranks, Func<RankFacts, string> value) =>
        ranks.Count == 1 ? [value(ranks[0])] : By(ranks, value).Select(group => $"{Names(group.Ranks)}: {group.Value}");

    /// <summary>E.g. "rank 3" or "ranks 0-3, 8".</summary>
    public static string Names(IReadOnlyList<RankFacts> ranks) =>
        (ranks.Count == 1 ? "rank " : "ranks ") + Numbers(ranks.Select(rank => rank.Rank));

    /// <summary>Numbers as the kernel writes lists: "0-3,8".</summary>
    public static string Numbers(IEnumerable<int> numbers)
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
