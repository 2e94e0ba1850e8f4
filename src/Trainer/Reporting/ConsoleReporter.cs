namespace LongNet.Trainer.Reporting;

/// <summary>What a person reads while a run goes on. Rank 0 has one; the other ranks are silent.</summary>
/// <param name="output">Where lines go.</param>
/// <param name="lastStep">The step the run ends at.</param>
/// <param name="everySteps">Steps between lines.</param>
internal sealed class ConsoleReporter(TextWriter output, long lastStep, long everySteps)
{
    private bool first = true;

    public void Say(string line) => output.WriteLine(line);

    public void Step(StepMetrics metrics)
    {
        if (!first && metrics.Step % everySteps != 0 && metrics.Step != lastStep)
            return;
        first = false;
        if (metrics.IsSkipped)
        {
            Say(
                $"step {metrics.Step}/{lastStep}  loss {metrics.Loss:F4}  skipped: it overflows with "
                    + $"loss scale {metrics.LossScale}"
            );
            return;
        }

        Say(
            $"step {metrics.Step}/{lastStep}  loss {metrics.Loss:F4}  grad norm "
                + $"{metrics.GradientNorm:F3}  lr {metrics.LearningRate:g3}  {metrics.TokensPerSecond:F0} "
                + $"tokens/s"
        );
    }

    public void Evaluation(EvaluationMetrics metrics)
    {
        Say(
            $"step {metrics.Step}/{lastStep}  validation {metrics.BitsPerByte:F4} bits per byte (loss "
                + $"{metrics.Loss:F4})"
        );
    }
}
