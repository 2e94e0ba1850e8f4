using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using LongNet.Core.Optimization;
using LongNet.Core.Serialization;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints.Tools;

/// <summary>A tensor that a checkpoint holds.</summary>
internal sealed record CheckpointTensor(string Name, ScalarType Type, IReadOnlyList<long> Shape)
{
    public long Elements => Shape.Aggregate(1L, (product, size) => product * size);

    public long Bytes => Elements * SafetensorsFormat.ElementBytes(Type);
}

/// <summary>Optimizer state of one kind, such as exp_avg, over all parameters and shards.</summary>
internal sealed record CheckpointOptimizerState(string Kind, int Tensors, long Elements, long Bytes);

/// <summary>
/// What a checkpoint holds, for a person or a program. Only state.json and headers are read, and digests are not
/// checked.
/// </summary>
internal sealed class CheckpointSummary
{
    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        WriteIndented = true,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    private CheckpointSummary(
        string checkpoint,
        CheckpointManifest manifest,
        IReadOnlyList<CheckpointTensor> parameters,
        IReadOnlyList<CheckpointOptimizerState> optimizer
    )
    {
        Checkpoint = checkpoint;
        Manifest = manifest;
        Parameters = parameters;
        Optimizer = optimizer;
    }

    /// <summary>The folder.</summary>
    public string Checkpoint { get; }

    public CheckpointManifest Manifest { get; }

    public IReadOnlyList<CheckpointTensor> Parameters { get; }

    public IReadOnlyList<CheckpointOptimizerState> Optimizer { get; }

    /// <exception cref="Core.UserException">It is no checkpoint, or damaged.</exception>
    public static CheckpointSummary Read(string checkpoint)
    {
        CheckpointManifest manifest = CheckpointVerification.ReadManifest(checkpoint);
        using SafetensorsReader model = CheckpointStore.OpenTensors(checkpoint, CheckpointStore.ModelFile);
        using OptimizerReader optimizer = OptimizerReader.Open(checkpoint, manifest);
        return new CheckpointSummary(
            checkpoint,
            manifest,
            [.. model.Names.Select(name => new CheckpointTensor(name, model.Type(name), model.Shape(name)))],
            [
                .. optimizer
                    .Names.GroupBy(KindOf)
                    .Select(kind => new CheckpointOptimizerState(
                        kind.Key,
                        kind.Count(),
                        kind.Sum(optimizer.Elements),
                        kind.Sum(name =>
                            optimizer.Elements(name) * SafetensorsFormat.ElementBytes(optimizer.Type(name))
                        )
                    )),
            ]
        );
    }

    /// <summary>A table for people.</summary>
    public string ToText()
    {
        var text = new StringBuilder();
        foreach (var (name, value) in StateRows())
            text.Append($"{name, -16} ").Append(value).Append('\n');
        AppendTable(
            text,
            ["parameter", "type", "shape", "MB"],
            Parameters.Select(tensor =>
                new[]
                {
                    CheckpointStore.Shown(tensor.Name),
                    SafetensorsFormat.NameOf(tensor.Type)!,
                    $"[{string.Join(", ", tensor.Shape)}]",
                    Megabytes(tensor.Bytes),
                }
            )
        );
        AppendTable(
            text,
            ["optimizer state", "tensors", "elements", "MB"],
            Optimizer.Select(kind =>
                new[] { CheckpointStore.Shown(kind.Kind), $"{kind.Tensors}", $"{kind.Elements}", Megabytes(kind.Bytes) }
            )
        );
        text.Append(
            $"\n{Parameters.Count} tensors, {ParameterCount} parameters, {Megabytes(ModelBytes)} MB; "
                + $"optimizer state {Megabytes(OptimizerBytes)} MB; together "
                + $"{Megabytes(ModelBytes + OptimizerBytes)} MB\n"
        );
        return text.ToString();
    }

    /// <summary>The same as JSON: the text of state.json under "state", and what the headers say.</summary>
    public string ToJson() =>
        JsonSerializer.Serialize(
            new
            {
                Checkpoint,
                State = JsonElement.Parse(Manifest.ToJson()),
                Tensors = Parameters.Select(tensor => new
                {
                    tensor.Name,
                    Dtype = SafetensorsFormat.NameOf(tensor.Type),
                    tensor.Shape,
                    tensor.Bytes,
                }),
                OptimizerState = Optimizer,
                Parameters = ParameterCount,
                ModelBytes,
                OptimizerBytes,
            },
            Json
        ) + "\n";

    /// <summary>Bytes as messages show them, in millions.</summary>
    internal static string Megabytes(long bytes) =>
        bytes switch
        {
            > 0 and < 500 => "<0.001",
            < 1_000_000 => (bytes / 1e6).ToString("F3"),
            _ => (bytes / 1e6).ToString("F1"),
        };

    private IEnumerable<(string Name, string Value)> StateRows()
    {
        CheckpointManifest state = Manifest;
        CheckpointSchedule rate = state.LearningRateSchedule;
        CheckpointVersions versions = state.Versions;
        yield return ("checkpoint", Checkpoint);
        yield return ("step", $"{state.Step}");
        yield return ("samples", $"{state.SequencesConsumed}");
        yield return ("tokens", $"{state.TokensConsumed}");
        yield return ("validation loss", state.ValidationLoss is double loss ? $"{loss:R}" : "none after this step");
        yield return ("seed", $"{state.Seed}");
        yield return (
            "mesh",
            $"{state.Mesh.Data} data x {state.Mesh.Sequence} sequence, CPU threads per rank: {state.ThreadsPerRank}"
        );
        yield return ("micro-batch", $"{state.MicroBatchSize}");
        yield return ("optimizer", state.OptimizerSharded ? $"sharded, {state.OptimizerShards} files" : "not sharded");
        yield return (
            "learning rate",
            $"{rate.Lr:R} after {rate.WarmupSteps} steps of warm-up, to {rate.MinLr:R} at step {rate.DecaySteps}"
        );
        if (state.LossScaler is { } scaler)
            yield return (
                "loss scale",
                $"{scaler.Scale:R}, good steps since it changed: {scaler.GoodSteps}, skipped steps in all: "
                    + $"{scaler.SkippedSteps}"
            );
        yield return ("corpus", CheckpointStore.Shown(state.Corpus));
        yield return (
            "written by",
            $"longnet {CheckpointStore.Shown(versions.Longnet)}, torch {CheckpointStore.Shown(versions.Torch)}, .NET "
                + $"{CheckpointStore.Shown(versions.Dotnet)}"
        );
    }

    private static void AppendTable(StringBuilder text, string[] heading, IEnumerable<string[]> rows)
    {
        string[][] lines = [heading, .. rows];
        int[] widths =
        [
            .. Enumerable.Range(0, heading.Length).Select(column => lines.Max(line => line[column].Length)),
        ];
        text.Append('\n');
        foreach (string[] line in lines)
        {
            // The last column has numbers, which end alike.
            IEnumerable<string> cells = line.Select(
                (cell, column) =>
                    column == heading.Length - 1 ? cell.PadLeft(widths[column]) : cell.PadRight(widths[column])
            );
            text.AppendJoin("  ", cells).Append('\n');
        }
    }

    private long ParameterCount => Parameters.Sum(tensor => tensor.Elements);

    private long ModelBytes => Parameters.Sum(tensor => tensor.Bytes);

    private long OptimizerBytes => Optimizer.Sum(kind => kind.Bytes);

    private static string KindOf(string name) =>
        new[] { FusedAdamW.MeanPrefix, FusedAdamW.SquarePrefix }
            .FirstOrDefault(prefix => name.StartsWith(prefix, StringComparison.Ordinal))
            ?.TrimEnd('.')
        ?? name;
}
