using LongNet.Trainer.Checkpoints;

namespace LongNet.Trainer.Reporting;

/// <summary>Several reporters as one.</summary>
/// <param name="reporters">Called in this order.</param>
internal sealed class CompositeReporter(params IRunReporter[] reporters) : IRunReporter
{
    public void Message(string text) => ForEach(reporter => reporter.Message(text));

    public void Started(RunDescription run) => ForEach(reporter => reporter.Started(run));

    public void Step(StepMetrics metrics) => ForEach(reporter => reporter.Step(metrics));

    public void Evaluation(EvaluationMetrics metrics) => ForEach(reporter => reporter.Evaluation(metrics));

    public void CheckpointSaved(long step, CommittedCheckpoint checkpoint) =>
        ForEach(reporter => reporter.CheckpointSaved(step, checkpoint));

    public void CheckpointFailed(string failure, bool trainingContinues) =>
        ForEach(reporter => reporter.CheckpointFailed(failure, trainingContinues));

    public void Stopping(long step, string reason) => ForEach(reporter => reporter.Stopping(step, reason));

    private void ForEach(Action<IRunReporter> report) => Array.ForEach(reporters, report);
}
