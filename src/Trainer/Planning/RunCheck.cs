using System.Text.Json;
using LongNet.Core;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Runs;
using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Planning;

/// <summary>What a run has measured, to be compared with its prediction.</summary>
/// <param name="Steps">Steps that count.</param>
/// <param name="StepSeconds">Their median.</param>
/// <param name="PeakMemoryBytes">The largest; null where the run's version did not write it.</param>
/// <param name="BytesSent">Of a step, by rank 0.</param>
internal sealed record RunCheck(int Steps, double StepSeconds, double? PeakMemoryBytes, double BytesSent)
{
    // Compilers, caches and the allocator settle in the first steps. Of a short run only the first step is left out.
    private const int SettlingSteps = 3;

    /// <summary>The configuration that a run was started with.</summary>
    /// <exception cref="UserException">There is none, or it has errors.</exception>
    public static RunConfig ConfigOf(string run, IReadOnlyList<string> overrides)
    {
        string path = new RunDirectory(run).ConfigFile;
        return File.Exists(path)
            ? ConfigurationFile.Load(path, overrides)
            : throw new UserException(
                $"--check {run} is no run's folder: it has no {Path.GetFileName(path)}. Give the folder "
                    + "that longnet train --output names."
            );
    }

    /// <summary>Ranks that wrote the newest checkpoint; null where there is none.</summary>
    public static int? RanksOf(string run)
    {
        CheckpointStore store = new RunDirectory(run).Checkpoints();
        if (store.Steps() is not [.., long newest])
            return null;
        CheckpointMesh mesh = CheckpointManifest.Read(store.PathOf(newest)).Mesh;
        return mesh.Data * mesh.Sequence;
    }

    /// <summary>Reads metrics.jsonl.</summary>
    /// <exception cref="UserException">It has no steps.</exception>
    public static RunCheck Read(string run)
    {
        string path = new RunDirectory(run).MetricsFile;
        var steps = new List<(double Seconds, double? Peak, double Sent)>();
        try
        {
            foreach (string line in File.ReadLines(path))
            {
                using JsonDocument document = JsonDocument.Parse(line);
                if (!document.RootElement.TryGetProperty("step_seconds", out JsonElement seconds))
                    continue;
                double? peak =
                    document.RootElement.TryGetProperty("peak_memory_bytes", out JsonElement bytes)
                    && bytes.ValueKind == JsonValueKind.Number
                        ? bytes.GetDouble()
                        : null;
                steps.Add((seconds.GetDouble(), peak, document.RootElement.GetProperty("bytes_sent").GetDouble()));
            }
        }
        catch (Exception error)
            when (error
                    is IOException
                        or UnauthorizedAccessException
                        or JsonException
                        or KeyNotFoundException
                        or InvalidOperationException
            )
        {
            throw new UserException($"{path} cannot be read: {error.Message}", error);
        }

        if (steps.Count == 0)
            throw new UserException($"{path} has no steps to compare with: let the run do some.");
        double[] settled =
        [
            .. steps
                .Skip(steps.Count > 2 * SettlingSteps ? SettlingSteps : Math.Min(1, steps.Count - 1))
                .Select(step => step.Seconds)
                .Order(),
        ];
        return new RunCheck(
            settled.Length,
            (settled[(settled.Length - 1) / 2] + settled[settled.Length / 2]) / 2,
            steps.Max(step => step.Peak),
            steps[^1].Sent
        );
    }

    /// <summary>Prediction, measurement and error.</summary>
    public string ToText(Prediction prediction) =>
        PlanReport.Aligned(
            [
                ["", "predicted", "measured", "error"],
                [
                    "peak memory of a rank",
                    SizeText.Memory(prediction.Memory.Total),
                    PeakMemoryBytes is double peak ? SizeText.Memory(peak) : "not written",
                    Error(prediction.Memory.Total, PeakMemoryBytes),
                ],
                [
                    $"step, median of {Steps}",
                    SizeText.Time(prediction.Time.Seconds),
                    SizeText.Time(StepSeconds),
                    Error(prediction.Time.Seconds, StepSeconds),
                ],
                [
                    "bytes sent by rank 0",
                    prediction.SentBytes.ToString("0"),
                    BytesSent.ToString("0"),
                    Error(prediction.SentBytes, BytesSent),
                ],
            ],
            ""
        );

    /// <summary>
    /// The same as a row of Markdown, with what was run: length, ranks, type and recomputation first.
    /// </summary>
    public string ToMarkdown(Prediction prediction)
    {
        RunShape run = prediction.Run;
        string[] cells =
        [
            SizeText.Length(run.SequenceLength),
            run.Ranks.ToString(),
            run.Config.Precision.Compute.ToString().ToLowerInvariant(),
            run.Config.Memory.Recompute.ToString().ToLowerInvariant(),
            SizeText.Memory(prediction.Memory.Total),
            PeakMemoryBytes is double peak ? SizeText.Memory(peak) : "not written",
            Error(prediction.Memory.Total, PeakMemoryBytes),
            SizeText.Time(prediction.Time.Seconds),
            SizeText.Time(StepSeconds),
            Error(prediction.Time.Seconds, StepSeconds),
        ];
        return $"| {string.Join(" | ", cells)} |\n";
    }

    /// <summary>The same for programs.</summary>
    public object ToJson(Prediction prediction) =>
        new
        {
            Predicted = new
            {
                PeakMemoryBytes = prediction.Memory.Total,
                StepSeconds = prediction.Time.Seconds,
                BytesSent = prediction.SentBytes,
            },
            Measured = new
            {
                PeakMemoryBytes,
                StepSeconds,
                BytesSent,
                Steps,
            },
        };

    private static string Error(double predicted, double? measured) =>
        measured switch
        {
            null => "",
            0 => predicted == 0 ? "0 %" : "",
            double value => (predicted / value - 1).ToString("+0 %;-0 %;0 %"),
        };
}
