using LongNet.Trainer.Checkpoints;

namespace LongNet.Trainer.Reporting;

/// <summary>
/// Where a run reports what happens. Rank 0 has one or more, other ranks a <see cref="NullReporter"/>. Each event is
/// ignored unless implemented.
/// </summary>
internal interface IRunReporter
{
    /// <summary>Anything else a person should know, one line.</summary>
    void Message(string text) { }

    /// <summary>The model is built.</summary>
    void Started(RunDescription run) { }

    /// <summary>A step is done.</summary>
    void Step(StepMetrics metrics) { }

    /// <summary>An evaluation is done.</summary>
    void Evaluation(EvaluationMetrics metrics) { }

    /// <summary>A checkpoint is complete.</summary>
    void CheckpointSaved(long step, CommittedCheckpoint checkpoint) { }

    /// <summary>A checkpoint could not be written.</summary>
    /// <param name="failure">What happened.</param>
    /// <param name="trainingContinues">Whether the run continues without it; false: the run has failed already.</param>
    void CheckpointFailed(string failure, bool trainingContinues) { }

    /// <summary>The run stops early.</summary>
    /// <param name="step">The last step that is done.</param>
    /// <param name="reason">Who or what asked for it.</param>
    void Stopping(long step, string reason) { }
}

internal static class RunReporterExtensions
{
    public static void Note(this IRunReporter reporter, string text) => reporter.Message($"note: {text}");

    public static void Warning(this IRunReporter reporter, string text) => reporter.Message($"warning: {text}");
}
