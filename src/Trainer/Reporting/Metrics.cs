namespace LongNet.Trainer.Reporting;

/// <summary>What one optimizer step tells. None but the seconds and the bytes depends on the number of ranks.</summary>
/// <param name="Step">Steps done, this one included.</param>
/// <param name="Loss">Mean cross-entropy per valid target token of the step, over all ranks, in nats.</param>
/// <param name="GradientNorm">2-norm of the whole gradient before clipping.</param>
/// <param name="LearningRate">The step's learning rate.</param>
/// <param name="Tokens">Target tokens the run has trained on, this step included.</param>
/// <param name="TokensPerSecond">Target tokens of this step over its seconds, over all ranks.</param>
/// <param name="StepSeconds">Wall time of the step.</param>
/// <param name="BytesSent">Payload bytes that rank 0 sent to other ranks in this step.</param>
/// <param name="CommunicationSeconds">How long rank 0 waited for collectives in this step: communication that no
/// computation hid, and waiting for slower ranks.</param>
/// <param name="CommunicationTotalSeconds">How long rank 0 had collectives under way in this step, hidden or
/// not.</param>
/// <param name="CheckpointStallSeconds">How long saving has held up rank 0 since the line before.</param>
internal sealed record StepMetrics(
    long Step,
    double Loss,
    double GradientNorm,
    double LearningRate,
    long Tokens,
    double TokensPerSecond,
    double StepSeconds,
    long BytesSent,
    double CommunicationSeconds,
    double CommunicationTotalSeconds,
    double CheckpointStallSeconds
)
{
    /// <summary>The most memory that any rank has had resident so far; null where the system does not tell.</summary>
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

/// <summary>What one evaluation tells.</summary>
/// <param name="Step">Steps done.</param>
/// <param name="Loss">Mean cross-entropy per held-out target token, in nats.</param>
/// <param name="BytesPerToken">Bytes of text that a target token stood for on average; 1 where tokens are
/// bytes.</param>
internal sealed record EvaluationMetrics(long Step, double Loss, double BytesPerToken = 1)
{
    /// <summary>The loss in bits per byte of the text that was evaluated.</summary>
    public double BitsPerByte => Loss / Math.Log(2) / BytesPerToken;
}
