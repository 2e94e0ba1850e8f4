namespace LongNet.Trainer.Platform;

/// <summary>What nvidia-smi says of the GPUs of a machine, as it finds them; nothing is changed.</summary>
internal static class GpuDetails
{
    private const string Query =
        "--query-gpu=name,compute_cap,memory.total,memory.free,driver_version,mig.mode.current,persistence_mode";

    /// <summary>One line per GPU, and one for their links where there are several.</summary>
    /// <returns>Empty where there is no nvidia-smi, or it knows no GPU.</returns>
    public static string[] Collect()
    {
        if (ExternalProgram.OnPath("nvidia-smi") is not { } program)
            return [];
        string? gpus = ExternalProgram.Output(program, Query, "--format=csv,noheader"),
            links = ExternalProgram.Output(program, "topo", "-m");
        string[] lines = gpus is null ? [] : [.. Describe(gpus)];
        return lines.Length > 1 && links is not null ? [.. lines, Links(links)] : lines;
    }

    /// <summary>Reads the answer to the query.</summary>
    internal static IEnumerable<string> Describe(string answer)
    {
        int index = 0;
        foreach (string line in answer.Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            string[] fields = line.Split(',', StringSplitOptions.TrimEntries);
            if (fields.Length != 7)
                continue;
            yield return $"{index++}: {fields[0]}, compute capability {fields[1]}, {fields[2]} ({fields[3]} free), "
                + $"driver {fields[4]}, MIG {Mode(fields[5])}, persistence {Mode(fields[6])}";
        }
    }

    /// <summary>The kinds of connection in the matrix that "topo -m" prints, such as "NV18".</summary>
    internal static string Links(string matrix)
    {
        string[][] rows =
        [
            .. matrix
                .Split('\n')
                .Where(line => line.StartsWith("GPU", StringComparison.Ordinal))
                .Select(line => line.Split('\t', StringSplitOptions.TrimEntries)),
        ];
        string[] kinds =
        [
            .. rows.SelectMany(row => row.Skip(1).Take(rows.Length)).Where(kind => kind is not ("X" or "")).Distinct(),
        ];
        return $"links between them: {(kinds.Length == 0 ? "unknown" : string.Join(", ", kinds))}";
    }

    // GPUs without the feature answer "[N/A]".
    private static string Mode(string field) =>
        field.Contains("N/A", StringComparison.Ordinal) ? "not available" : field.ToLowerInvariant();
}
