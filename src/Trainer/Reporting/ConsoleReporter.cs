using LongNet.Trainer.Checkpoints;

namespace LongNet.Trainer.Reporting;

/// <summary>What a person reads while a run trains.</summary>
/// <param name="output">Where lines go.</param>
/// <param name="lastStep">The step the run ends at.</param>
/// <param name="everySteps">Steps between lines.</param>
internal sealed class ConsoleReporter(TextWriter output, long lastStep, long everySteps) : IRunReporter
{
    private bool first = true;

    public void Message(string text) => output.WriteLine(text);

    public void Started(RunDescription run)
    {
        Message(
            $"{run.Name}: {run.Parameters:N0} parameters, optimizer state {run.OptimizerStateBytes / 1e6:F1} MB per "
                + $"rank, mesh {run.DataRanks} data x {run.SequenceRanks} sequence on {run.Device}, "
                + run.ProcessSettings
        );
        Message(
            $"corpus: {run.Corpus}, {run.TrainingWindows} training and {run.ValidationWindows} held-out windows of "
                + $"{run.SequenceLength} {run.TokenUnit}"
        );
        if (run.PrecisionAndMemory.Count > 0)
            Message($"settings: {string.Join(", ", run.PrecisionAndMemory)}");
    }

    public void Step(StepMetrics metrics)
    {
        if (!first && metrics.Step % everySteps != 0 && metrics.Step != lastStep)
            return;
        first = false;
        if (metrics.IsSkipped)
        {
            Message(
                $"step {metrics.Step}/{lastStep}  loss {metrics.Loss:F4}  skipped: it overflows with "
                    + $"loss scale {metrics.LossScale}"
            );
            return;
        }

        Message(
            $"step {metrics.Step}/{lastStep}  loss {metrics.Loss:F4}  grad norm "
                + $"{metrics.GradientNorm:F3}  lr {metrics.LearningRate:g3}  {metrics.TokensPerSecond:F0} "
                + $"tokens/s"
        );
    }

    public void Evaluation(EvaluationMetrics metrics) =>
        Message(
            $"step {metrics.Step}/{lastStep}  validation {metrics.BitsPerByte:F4} bits per byte (loss "
                + $"{metrics.Loss:F4})"
        );

    public void CheckpointSaved(long step, CommittedCheckpoint checkpoint)
    {
        Message($"step {step}/{lastStep}  checkpoint {checkpoint.Path}");
        if (checkpoint.Warning is { } warning)
            this.Warning(warning);
    }

    public void CheckpointFailed(string failure, bool trainingContinues) =>
        this.Warning(
            trainingContinues ? $"{failure} Training goes on (checkpoint.required: true would end it)." : failure
        );

    public void Stopping(long step, string reason) => Message($"stopping after step {step} of {lastStep}: {reason}");
}
