using System.Globalization;

namespace LongNet.Distributed.Diagnostics;

/// <summary>Explains a failed job in one sentence, from its ranks' flight records.</summary>
internal static class FlightRecordAnalysis
{
    /// <param name="records">Of at least one rank.</param>
    /// <param name="limit">How long the collective could take, e.g. " within 300 s"; empty where that is not
    /// known.</param>
    /// <param name="silent">Text for ranks that have no record.</param>
    public static string Explain(
        IReadOnlyList<FlightRecord> records,
        string limit = "",
        string silent = "left no record, so its process was killed or stopped or its machine is out of reach"
    )
    {
        ArgumentNullException.ThrowIfNull(records);
        var byRank = records.ToDictionary(record => record.Rank);
        string waiting = Waiting(records);
        if (records.FirstOrDefault(record => record.FailedRank is not null) is { FailedRank: int failed } failure)
        {
            string host = byRank.TryGetValue(failed, out FlightRecord? own)
                ? $" ({own.Host}, process {own.ProcessId}{At(own.Activity)})"
                : "";
            return $"Rank {failed}{host} failed: {failure.Reason}"
                + (waiting.Length == 0 ? "" : $" Meanwhile {waiting}.");
        }

        return Stuck(records) is var (call, group)
            ? Blame(byRank, call, group, limit, silent)
            : "No collective was under way: "
                + $"{string.Join("; ", records.Select(record => $"rank {record.Rank} {Doing(record)}"))}.";
    }

    /// <summary>Ranks as people write them, e.g. "ranks 0-3, 7".</summary>
    public static string Ranks(IEnumerable<int> ranks)
    {
        int[] ordered = [.. ranks.Order()];
        var ranges = new List<string>();
        for (int first = 0; first < ordered.Length; )
        {
            int last = first;
            while (last + 1 < ordered.Length && ordered[last + 1] == ordered[last] + 1)
                last++;
            ranges.Add(
                last == first ? $"{ordered[first]}"
                : last == first + 1 ? $"{ordered[first]}, {ordered[last]}"
                : $"{ordered[first]}-{ordered[last]}"
            );
            first = last + 1;
        }

        return (ordered.Length == 1 ? "rank " : "ranks ") + string.Join(", ", ranges);
    }

    // The collective that ranks have waited for first: later ones may wait because of it.
    private static (RecordedCollective Call, RecordedGroup Group)? Stuck(IReadOnlyList<FlightRecord> records)
    {
        var open = records
            .SelectMany(record =>
                record.Collectives.Where(call => call.Completed is null).Select(call => (record, call))
            )
            .ToArray();
        if (open.Length == 0)
            return null;
        // Machines' clocks differ a little, sequence numbers do not.
        var (of, first) = open.GroupBy(entry => entry.call.Group)
            .Select(group => group.MinBy(entry => entry.call.Number))
            .MinBy(entry => entry.call.Called);
        return (first, of.Groups[first.Group]);
    }

    private static string Blame(
        Dictionary<int, FlightRecord> records,
        RecordedCollective call,
        RecordedGroup group,
        string limit,
        string silent
    )
    {
        var silentRanks = new List<int>();
        var absent = new List<FlightRecord>();
        var different = new List<(int Rank, RecordedCollective Call)>();
        var waiting = new List<(int Rank, RecordedCollective Call)>();
        foreach (int rank in group.Members)
        {
            if (!records.TryGetValue(rank, out FlightRecord? record))
            {
                silentRanks.Add(rank);
                continue;
            }

            RecordedCollective? own = record.Collectives.LastOrDefault(each =>
                each.Group == call.Group && each.Number == call.Number && each.IsMessage == call.IsMessage
            );
            // A rank that has called later collectives may not list this one any more.
            bool isPast = record.Collectives.Any(each =>
                each.Group == call.Group && each.Number > call.Number && !each.IsMessage
            );
            if (own is null && (call.IsMessage || !isPast))
                absent.Add(record);
            else if (own is null)
                continue;
            else if (!call.IsMessage && (own.Kind != call.Kind || own.Signature != call.Signature))
                different.Add((rank, own));
            else if (own.Completed is null)
                waiting.Add((rank, own));
        }

        string name = Name(call, group);
        var causes = new List<string>();
        foreach (int rank in silentRanks)
            causes.Add($"rank {rank} {silent}");
        foreach (var (rank, other) in different)
            causes.Add($"rank {rank} called {Name(other, group)} at {other.CallSite}{At(other.Activity)} instead");
        foreach (FlightRecord record in call.IsMessage ? [] : absent)
            causes.Add(
                $"rank {record.Rank} ({record.Host}, process {record.ProcessId}) never called it: it {Doing(record)}"
            );
        if (causes.Count == 0)
            causes.Add(
                call.IsMessage
                    ? "its peer has not answered it"
                    : "all its ranks called it, so what joins them does not carry it"
            );
        string who =
            waiting.Count == 0
                ? ""
                : $"; {Ranks(waiting.Select(entry => entry.Rank))} {(waiting.Count == 1 ? "waits" : "wait")} in "
                    + $"it at {waiting[0].Call.CallSite}{At(waiting[0].Call.Activity)}";
        return $"{Capital(name)} did not finish{limit}: {string.Join("; ", causes)}{who}.";
    }

    private static string Doing(FlightRecord record)
    {
        if (record.Collectives.FirstOrDefault(call => call.Completed is null) is { } open)
            return $"waits in {Name(open, record.Groups[open.Group])} at {open.CallSite}{At(open.Activity)}";
        string seconds = record.ActivitySeconds.ToString("F0", CultureInfo.InvariantCulture);
        string doing =
            record.Activity.Length == 0 ? "is in no collective" : $"is at \"{record.Activity}\", since {seconds} s";
        return record.Collectives.Count == 0
            ? doing + ", and has called none"
            : $"{doing}, and its last was {Name(record.Collectives[^1], record.Groups[record.Collectives[^1].Group])}";
    }

    private static string Waiting(IReadOnlyList<FlightRecord> records) =>
        string.Join(
            "; ",
            records
                .Select(record =>
                    (
                        record.Rank,
                        Open: record.Collectives.FirstOrDefault(call => call.Completed is null),
                        record.Groups
                    )
                )
                .Where(entry => entry.Open is not null)
                .GroupBy(entry => Name(entry.Open!, entry.Groups[entry.Open!.Group]) + $" at {entry.Open!.CallSite}")
                .Select(group => $"{Ranks(group.Select(entry => entry.Rank))} waited in {group.Key}")
        );

    private static string Name(RecordedCollective call, RecordedGroup group) =>
        $"{call.Kind} #{call.Number} of the group '{group.Name}'"
        + (call.Signature.Length == 0 ? "" : $" ({call.Signature})");

    private static string At(string activity) => activity.Length == 0 ? "" : $", {activity}";

    private static string Capital(string text) => char.ToUpperInvariant(text[0]) + text[1..];
}
