using LongNet.Trainer.Runs;

namespace LongNet.Trainer.Reporting;

/// <summary>
/// Reports steps and evaluations into metrics.jsonl, as long as the run directory is this run's: after it was taken
/// over, the file belongs to the other run.
/// </summary>
/// <param name="writer">The file. Not owned.</param>
/// <param name="runLock">The run directory's. Not owned.</param>
/// <param name="warnings">Where it is reported that the file cannot be written.</param>
internal sealed class MetricsReporter(MetricsWriter writer, RunLock runLock, IRunReporter warnings) : IRunReporter
{
    private bool wasWritable = true;

    public void Step(StepMetrics metrics)
    {
        if (!runLock.CheckTakenOver())
            writer.Write(metrics);
        // Once for as long as it lasts.
        if (writer.Problem is { } problem && wasWritable)
            warnings.Warning(
                $"{writer.Path} cannot be written: {problem.TrimEnd('.')}. Lines wait in memory, and no checkpoint can "
                    + "be saved until they can be."
            );
        wasWritable = writer.Problem is null;
    }

    public void Evaluation(EvaluationMetrics metrics)
    {
        if (runLock.TakenOverBy is null)
            writer.Write(metrics);
    }
}
