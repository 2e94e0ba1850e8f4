namespace LongNet.Trainer.Commands;

/// <summary>How longnet plan prints.</summary>
internal enum PlanFormat
{
    Text,
    Json,
    Markdown,
}

/// <summary>What longnet plan is asked for.</summary>
internal sealed record PlanRequest
{
    /// <summary>--config; null where a run is checked.</summary>
    public required string? Config { get; init; }

    /// <summary>--set.</summary>
    public required string[] Overrides { get; init; }

    /// <summary>Numbers of ranks; null where none is given.</summary>
    public required int[]? Ranks { get; init; }

    /// <summary>Sequence lengths, in rows; null where none is given.</summary>
    public required long[]? Lengths { get; init; }

    /// <summary>Memory per rank, in bytes, that the plan must fit; null for no such limit.</summary>
    public required double? TargetMemory { get; init; }

    /// <summary>A preset or a file; null for this machine.</summary>
    public required string? Machine { get; init; }

    /// <summary>The run whose measurements are compared with the prediction; null for none.</summary>
    public required string? CheckedRun { get; init; }

    public required PlanFormat Format { get; init; }
}
