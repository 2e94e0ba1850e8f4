using System.Text;
using System.Text.Json;
using LongNet.Core.Model;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Planning.Machines;
using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Planning;

/// <summary>A row of the table: a prediction, or why there is none.</summary>
/// <param name="Length">Rows of the sequence.</param>
/// <param name="Ranks">Ranks.</param>
/// <param name="Prediction">Null where training would refuse to start.</param>
/// <param name="Refusal">What it would say then.</param>
internal sealed record PlanRow(long Length, int Ranks, Prediction? Prediction, string? Refusal);

/// <summary>Predictions as aligned text, as a table of Markdown and as JSON.</summary>
internal static class PlanReport
{
    private static readonly string[] Columns =
    [
        "length",
        "ranks",
        "mesh",
        "memory per rank",
        "fits",
        "sent per step",
        "step",
        "tokens/s",
        "bound by",
    ];

    /// <summary>Everything about one prediction.</summary>
    public static string Breakdown(Prediction prediction, double? memory)
    {
        var text = new StringBuilder();
        RunShape run = prediction.Run;
        Line(Heading(prediction));
        Line($"machine: {prediction.Machine.Name} ({prediction.Machine.Source})");
        Line(
            $"parameters: {run.Parameters.Total:N0}, {run.Parameters.PerBlock:N0} in each of "
                + $"{run.Parameters.Blocks} blocks"
        );
        Line($"");

        Line(
            $"memory per rank: {SizeText.Memory(prediction.Memory.Total)}, "
                + $"{(prediction.Fits(memory) ? "fits" : "does not fit")} "
                + $"{SizeText.Memory(memory ?? prediction.Machine.MemoryPerRank)}"
        );
        Table(
            Kinds(prediction.Memory)
                .Select(kind =>
                    new[] { kind.Name, SizeText.Memory(kind.Bytes), Share(kind.Bytes, prediction.Memory.Total) }
                )
        );
        Line($"");

        Line($"operations per step, all ranks: {SizeText.Count(prediction.Operations.Total)}FLOP");
        Operations operations = prediction.Operations;
        Table([
            ["", "forward", "backward", "recomputed"],
            .. new[] { "projections", "attention", "feed-forward", "output projection" }.Select(part =>
                new[]
                {
                    part,
                    SizeText.Count(Part(operations.Forward, part)),
                    SizeText.Count(Part(operations.Backward, part)),
                    SizeText.Count(Part(operations.Recomputed, part)),
                }
            ),
        ]);
        Line($"attention forward, by branch, one sequence and one layer:");
        double all = prediction.Attention.Branches.Sum(branch => branch.Pairs);
        Table(
            prediction.Attention.Branches.Select(branch =>
                new[]
                {
                    $"{branch.Branch}",
                    $"{SizeText.Count(branch.Pairs)} pairs",
                    Share(branch.Pairs, all),
                    branch.Span == 1 ? "within a rank" : $"over {Math.Min(branch.Span, run.SequenceRanks)} ranks",
                }
            )
        );
        Line($"");

        Line($"collectives per step: rank 0 sends {SizeText.Memory(prediction.SentBytes)}");
        Table(
            prediction.Collectives.Select(collective =>
                new[]
                {
                    collective.Name,
                    $"{collective.Ranks} ranks",
                    $"{collective.Calls} calls",
                    SizeText.Memory(collective.SentBytes),
                }
            )
        );
        Line($"");

        Line($"step: {SizeText.Time(prediction.Time.Seconds)}, bound by {Name(prediction.Time.Bound)}");
        Table(
            prediction.Time.Parts.Select(part =>
                new[]
                {
                    part.Name,
                    SizeText.Time(part.Seconds),
                    Share(part.Seconds, prediction.Time.Seconds),
                    Name(part.Bound),
                }
            )
        );
        Line($"");
        Line($"throughput: {SizeText.Count(prediction.TokensPerSecond)} tokens/s");
        Line(
            $"training: {run.Config.Training.Steps} steps of {SizeText.Count(run.TokensPerStep)} tokens in "
                + $"{SizeText.Time(prediction.TrainingSeconds)}"
        );
        return text.ToString();

        void Line(string line) => text.Append(line).Append('\n');

        void Table(IEnumerable<string[]> rows) => text.Append(Aligned([.. rows], "  "));
    }

    /// <summary>A row for each prediction.</summary>
    public static string Text(IReadOnlyList<PlanRow> rows, double? memory) =>
        (
            rows.Any(row => row.Prediction is not null)
                ? Aligned(
                    [Columns, .. rows.Where(row => row.Prediction is not null).Select(row => Cells(row, memory))],
                    ""
                )
                : ""
        )
        + string.Concat(
            rows.Where(row => row.Refusal is not null)
                .Select(row => $"{SizeText.Length(row.Length)} on {Ranks(row.Ranks)}: {row.Refusal}\n")
        );

    /// <summary>The same as a table of Markdown.</summary>
    public static string Markdown(IReadOnlyList<PlanRow> rows, double? memory)
    {
        var text = new StringBuilder();
        Row(Columns);
        Row([.. Columns.Select(_ => "---:")]);
        foreach (PlanRow row in rows)
            Row(
                row.Prediction is null
                    ? [SizeText.Length(row.Length), $"{row.Ranks}", row.Refusal!, "", "", "", "", "", ""]
                    : Cells(row, memory)
            );
        return text.ToString();

        void Row(string[] cells) => text.Append("| ").AppendJoin(" | ", cells).Append(" |\n");
    }

    /// <summary>All of it.</summary>
    public static string Json(IReadOnlyList<PlanRow> rows, Machine machine, double? memory) =>
        JsonSerializer.Serialize(
            new
            {
                Machine = machine,
                TargetMemory = memory,
                Plans = rows.Select(row =>
                    row.Prediction is not { } prediction
                        ? (object)
                            new
                            {
                                row.Length,
                                row.Ranks,
                                row.Refusal,
                            }
                        : new
                        {
                            row.Length,
                            row.Ranks,
                            prediction.Run.DataRanks,
                            prediction.Run.SequenceRanks,
                            Parameters = prediction.Run.Parameters.Total,
                            Fits = prediction.Fits(memory),
                            MemoryBytes = prediction.Memory.Total,
                            prediction.Memory,
                            Flops = prediction.Operations.Total,
                            prediction.Operations,
                            Branches = prediction.Attention.Branches.Select(branch => new
                            {
                                branch.Branch.SegmentLength,
                                branch.Branch.Dilation,
                                branch.Span,
                                branch.Pairs,
                            }),
                            BytesSent = prediction.SentBytes,
                            Collectives = prediction.Collectives.Select(collective => new
                            {
                                collective.Name,
                                collective.Ranks,
                                collective.Calls,
                                BytesSent = collective.SentBytes,
                                collective.LinkBytes,
                            }),
                            StepSeconds = prediction.Time.Seconds,
                            Bound = Name(prediction.Time.Bound),
                            Parts = prediction.Time.Parts.Select(part => new
                            {
                                part.Name,
                                part.Seconds,
                                Bound = Name(part.Bound),
                            }),
                            prediction.TokensPerSecond,
                            prediction.TrainingSeconds,
                        }
                ),
            },
            MachineFile.Json
        ) + "\n";

    /// <summary>Rows whose columns are as wide as their widest cells; numbers to the right.</summary>
    internal static string Aligned(IReadOnlyList<string[]> rows, string indent)
    {
        var text = new StringBuilder();
        int columns = rows.Count == 0 ? 0 : rows.Max(row => row.Length);
        int[] widths =
        [
            .. Enumerable
                .Range(0, columns)
                .Select(column => rows.Max(row => column < row.Length ? row[column].Length : 0)),
        ];
        foreach (string[] row in rows)
        {
            string line =
                indent
                + string.Join(
                    "  ",
                    row.Select(
                        (cell, column) =>
                            column == 0 || column == columns - 1
                                ? cell.PadRight(widths[column])
                                : cell.PadLeft(widths[column])
                    )
                );
            text.Append(line.TrimEnd()).Append('\n');
        }

        return text.ToString();
    }

    internal static string Ranks(int ranks) => ranks == 1 ? "1 rank" : $"{ranks} ranks";

    private static string Heading(Prediction prediction)
    {
        RunShape run = prediction.Run;
        MemoryConfig memory = run.Config.Memory;
        string recompute =
            memory.Recompute == Recompute.None
                ? "nothing recomputed"
                : $"recompute {memory.Recompute.ToString().ToLowerInvariant()}";
        string offload = memory.Offload == Offload.Disk ? ", offload to disk" : "";
        return $"{run.Config.Name}: sequences of {SizeText.Length(run.SequenceLength)}, batch "
            + $"{run.Config.Training.BatchSize} in micro-batches of {run.Batch.MicroBatchSize}, {Ranks(run.Ranks)} "
            + $"as {run.DataRanks} data x {run.SequenceRanks} sequence, "
            + $"{run.Config.Precision.Compute.ToString().ToLowerInvariant()}, {recompute}{offload}";
    }

    private static string[] Cells(PlanRow row, double? memory)
    {
        Prediction prediction = row.Prediction!;
        return
        [
            SizeText.Length(row.Length),
            row.Ranks.ToString(),
            $"{prediction.Run.DataRanks} x {prediction.Run.SequenceRanks}",
            SizeText.Memory(prediction.Memory.Total),
            prediction.Fits(memory) ? "yes" : "no",
            SizeText.Memory(prediction.SentBytes),
            SizeText.Time(prediction.Time.Seconds),
            SizeText.Count(prediction.TokensPerSecond),
            Name(prediction.Time.Bound),
        ];
    }

    private static (string Name, double Bytes)[] Kinds(MemoryCost memory) =>
        [
            ("weights", memory.Weights),
            ("gradients", memory.Gradients),
            ("optimizer", memory.Optimizer),
            ("activations", memory.Activations),
            ("gathered keys and values", memory.Gathered),
            ("loss and a tile of logits", memory.Logits),
            ($"workspace ({memory.WorkspacePhase})", memory.Workspace),
            ("positions and tokens", memory.Positions),
            ("copy for a checkpoint", memory.CheckpointCopy),
            ("holes of the allocator", memory.Allocator),
            ("runtime", memory.Runtime),
        ];

    private static double Part(FlopsByPart flops, string part) =>
        part switch
        {
            "projections" => flops.Projections,
            "attention" => flops.Attention,
            "feed-forward" => flops.FeedForward,
            _ => flops.Output,
        };

    private static string Share(double part, double whole) => (part / whole).ToString("P0");

    private static string Name(Resource resource) =>
        resource switch
        {
            Resource.Compute => "compute",
            Resource.MemoryBandwidth => "memory bandwidth",
            Resource.Network => "network",
            Resource.Disk => "disk",
            _ => "calls",
        };
}
