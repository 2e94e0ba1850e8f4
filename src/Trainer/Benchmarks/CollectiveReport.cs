using System.Text;
using System.Text.Json;
using LongNet.Trainer.Measuring;

namespace LongNet.Trainer.Benchmarks;

/// <summary>What the benchmark of collectives measured: a table for the console, JSON and Markdown.</summary>
/// <param name="benchmark">What was measured.</param>
/// <param name="transport">What carries the collectives, e.g. "Open MPI v4.1.4".</param>
/// <param name="settings">Threads, kernels, memory.</param>
internal sealed class CollectiveReport(CollectiveBenchmark benchmark, string transport, string settings)
{
    public const string Conventions =
        "size: the larger buffer of a rank, as in nccl-tests (what an all-gather leaves on each rank, what a "
        + "reduce-scatter or all-to-all takes from each); "
        + "bus: bytes over a rank's link per second, size x (P-1)/P / time, twice that for all-reduce, size / "
        + "time for broadcast; "
        + "time: of the slowest rank, results in fresh tensors";

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        WriteIndented = true,
    };

    private readonly List<CollectiveTimes> all = [];

    /// <summary>The lines above the console's table.</summary>
    public string Heading { get; } =
        $"{benchmark.Group.Size} ranks, {benchmark.Type}, {transport}; {settings}; {benchmark.Rounds} rounds\n"
        + $"{Conventions}\n"
        + $"{"operation", -14} | {"size", 8} | {"median ms", 10} | {"bus GB/s", 9} | {"best ms", 10} | "
        + $"{"bus GB/s", 9}\n";

    /// <summary>Adds the times of one operation and size.</summary>
    /// <returns>Their line of the console's table.</returns>
    public string Add(CollectiveTimes times)
    {
        all.Add(times);
        return (
                $"{times.Operation, -14} | {ByteSize.Format(times.Bytes), 8} | "
                + $"{times.MedianSeconds * 1e3, 10:F3} | "
                + $"{times.MedianBusBandwidth / 1e9, 9:F2} | "
            ) + $"{times.BestSeconds * 1e3, 10:F3} | {times.BestBusBandwidth / 1e9, 9:F2}";
    }

    public string ToJson() =>
        JsonSerializer.Serialize(
            new
            {
                Ranks = benchmark.Group.Size,
                Dtype = benchmark.Type.ToString(),
                benchmark.Rounds,
                Transport = transport,
                Settings = settings,
                Times = all,
            },
            Json
        ) + "\n";

    public string ToMarkdown()
    {
        var text = new StringBuilder();
        text.Append($"## Collectives of {benchmark.Group.Size} ranks in {benchmark.Type}\n\n");
        text.Append($"{transport}; {settings}; {benchmark.Rounds} rounds. In the table, {Conventions}.\n\n");
        text.Append(
            "| operation | size | median ms | bus GB/s | best ms | bus GB/s |\n| --- | ---: | ---: | ---: "
                + "| ---: | ---: |\n"
        );
        foreach (CollectiveTimes times in all)
        {
            text.Append(
                $"| {times.Operation} | {ByteSize.Format(times.Bytes)} | {times.MedianSeconds * 1e3:F3} | "
                    + $"{times.MedianBusBandwidth / 1e9:F2} "
            );
            text.Append($"| {times.BestSeconds * 1e3:F3} | {times.BestBusBandwidth / 1e9:F2} |\n");
        }

        return text.ToString();
    }
}
