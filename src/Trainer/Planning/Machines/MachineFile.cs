using System.Text.Json;
using LongNet.Core;

namespace LongNet.Trainer.Planning.Machines;

/// <summary>A machine in a JSON file: what longnet doctor --json printed, or its "machine" alone.</summary>
internal static class MachineFile
{
    public static JsonSerializerOptions Json { get; } =
        new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower, WriteIndented = true };

    /// <summary>The machine of a preset's name or of a file.</summary>
    /// <exception cref="UserException">It is neither, or the file holds no machine.</exception>
    public static Machine Find(string nameOrPath)
    {
        if (!File.Exists(nameOrPath))
            return MachinePresets.Find(nameOrPath);
        Machine machine;
        try
        {
            using JsonDocument document = JsonDocument.Parse(File.ReadAllText(nameOrPath));
            JsonElement root = document.RootElement;
            machine = (
                root.ValueKind == JsonValueKind.Object && root.TryGetProperty("machine", out JsonElement inner)
                    ? inner
                    : root
            ).Deserialize<Machine>(Json) ?? throw new JsonException("it holds null");
        }
        catch (Exception error) when (error is JsonException or IOException or UnauthorizedAccessException)
        {
            throw new UserException(
                $"--machine {nameOrPath} is no description of a machine: {error.Message.TrimEnd('.')}. "
                    + $"Write one with longnet doctor --json > {Path.GetFileName(nameOrPath)}.",
                error
            );
        }

        foreach (
            var (key, value) in new[]
            {
                ("ranks_per_host", machine.RanksPerHost),
                ("processors", machine.Processors ?? 1),
                ("threads_per_rank", machine.ThreadsPerRank),
                ("matrix_float32", machine.MatrixFloat32),
                ("matrix_bfloat16", machine.MatrixBfloat16),
                ("attention_float32", machine.AttentionFloat32),
                ("attention_bfloat16", machine.AttentionBfloat16),
                ("memory_bandwidth", machine.MemoryBandwidth),
                ("memory_per_rank", machine.MemoryPerRank),
            }
        )
        {
            if (!(value > 0))
                throw new UserException(
                    $"--machine {nameOrPath} has {key} {value}, but it must be above 0: write the file anew "
                        + "with longnet doctor --json."
                );
        }

        return machine;
    }
}
