namespace LongNet.Trainer.Reporting;

/// <summary>A run as it starts.</summary>
internal sealed record RunDescription
{
    public required string Name { get; init; }

    public required long Parameters { get; init; }

    /// <summary>Per rank.</summary>
    public required long OptimizerStateBytes { get; init; }

    public required int DataRanks { get; init; }

    public required int SequenceRanks { get; init; }

    /// <summary>Where rank 0 computes.</summary>
    public required string Device { get; init; }

    /// <summary>What is set for the process: threads, kernels, memory.</summary>
    public required string ProcessSettings { get; init; }

    /// <summary>The corpus, for people.</summary>
    public required string Corpus { get; init; }

    public required long TrainingWindows { get; init; }

    public required long ValidationWindows { get; init; }

    /// <summary>Tokens of a window.</summary>
    public required long SequenceLength { get; init; }

    /// <summary>What a token is, e.g. "bytes".</summary>
    public required string TokenUnit { get; init; }

    /// <summary>Settings of precision and memory that are not the default ones.</summary>
    public required IReadOnlyList<string> PrecisionAndMemory { get; init; }
}
