namespace LongNet.Trainer.Reporting;

/// <summary>
/// What is measured in one optimizer step. Only the seconds and the bytes depend on the number of ranks.
/// </summary>
internal sealed record StepMetrics
{
    /// <summary>Steps done, this one included.</summary>
    public required long Step { get; init; }

    /// <summary>Mean cross-entropy per valid target token of the step, over all ranks, in nats.</summary>
    public required double Loss { get; init; }

    /// <summary>2-norm of the complete gradient before clipping.</summary>
    public required double GradientNorm { get; init; }

    /// <summary>The step's learning rate.</summary>
    public required double LearningRate { get; init; }

    /// <summary>Target tokens the run has trained on, this step included.</summary>
    public required long Tokens { get; init; }

    /// <summary>Target tokens of this step over its seconds, over all ranks.</summary>
    public required double TokensPerSecond { get; init; }

    /// <summary>Wall time of the step.</summary>
    public required double StepSeconds { get; init; }

    /// <summary>Payload bytes that rank 0 sent to other ranks in this step.</summary>
    public required long BytesSent { get; init; }

    /// <summary>
    /// How long rank 0 waited for collectives in this step: communication that no computation hid, and waiting for
    /// slower ranks. Key communication_seconds.
    /// </summary>
    public required double ExposedCommunicationSeconds { get; init; }

    /// <summary>
    /// How long any of rank 0's collectives was in flight in this step, hidden or not. Key
    /// communication_total_seconds.
    /// </summary>
    public required double InFlightCommunicationSeconds { get; init; }

    /// <summary>How long saving has delayed rank 0 since the line before.</summary>
    public double CheckpointStallSeconds { get; init; }

    /// <summary>
    /// The most memory that any rank has had resident so far; null where the system does not report it.
    /// </summary>
    public long? PeakMemoryBytes { get; init; }

    /// <summary>What this step's loss was multiplied by for backward; null where losses are not scaled.</summary>
    public double? LossScale { get; init; }

    /// <summary>
    /// Steps of the run so far that were skipped because they overflowed, this one included; null where losses are not
    /// scaled.
    /// </summary>
    public long? SkippedSteps { get; init; }

    /// <summary>Whether this step overflowed, so that it changed no parameter.</summary>
    public bool IsSkipped => !double.IsFinite(Loss) || !double.IsFinite(GradientNorm);
}
