using LongNet.Distributed.Collectives;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Reporting;
using LongNet.Trainer.Runs;

namespace LongNet.Trainer.Loop;

/// <summary>
/// The steps of a run with what happens between them: evaluations, checkpoints and the decision to stop.
/// </summary>
/// <param name="context">The run. Not owned.</param>
/// <param name="runLock">The run directory's; null on ranks other than 0. Not owned.</param>
/// <param name="state">What the steps change. Not owned.</param>
/// <param name="step">Does the steps.</param>
/// <param name="evaluation">Does the evaluations.</param>
/// <param name="saver">Saves checkpoints. Not owned.</param>
/// <param name="reporter">Of this rank.</param>
internal sealed class TrainingLoop(
    RunContext context,
    RunLock? runLock,
    TrainingState state,
    TrainingStep step,
    Evaluation evaluation,
    CheckpointSaver saver,
    IRunReporter reporter
)
{
    private readonly RunConfig config = context.Plan.Config;

    private bool IsLastStep => state.Step == context.LastStep;

    /// <summary>Trains to the last step, or until the ranks decide to stop. Collective over the world.</summary>
    /// <returns>Whether the last step is done; false: the run has stopped early, and has saved a checkpoint.</returns>
    /// <exception cref="AgreedUserException">The numbers, the last checkpoint or another run forbid to
    /// continue.</exception>
    public bool Run()
    {
        if (config.Evaluation.EverySteps > 0 && state.Step == 0)
            Evaluate();
        var timeLimit = new TimeLimit(config.Training.TimeLimitMinutes, context.ProcessStart, context.Clock);
        var consensus = new StepConsensus(context.Runtime, context.Directory, timeLimit, runLock);
        var saves = new SaveSchedule(config.Checkpoint, context.Clock);
        bool stopped = false;
        while (!stopped && !IsLastStep)
        {
            reporter.Step(step.Run(saver) with { CheckpointStallSeconds = saver.TakeStallSeconds() });
            double? validationLoss = IsEvaluationDue() ? Evaluate() : null;
            StepDecision decision = consensus.Decide(
                state.Step,
                new StepVote(consensus.OwnReason(), saver.CheckProgress(), saves.IsDueByTime)
            );
            if (decision.Reason == StopReason.TakenOver)
                throw RunCheckpointEvents.TakenOver(context.Directory, runLock);
            stopped = decision.Stops && !IsLastStep;
            if (stopped)
                reporter.Stopping(state.Step, consensus.Explain(decision));
            saver.Advance(decision.Saving);
            if (IsLastStep || stopped || decision.SaveNow || saves.IsDueAfter(state.Step))
                Save(saves, validationLoss);
        }

        FinishLastCheckpoint();
        consensus.CleanUp();
        return !stopped;
    }

    private bool IsEvaluationDue() =>
        config.Evaluation.EverySteps > 0 && (IsLastStep || state.Step % config.Evaluation.EverySteps == 0);

    private double Evaluate()
    {
        context.World.Monitor.Activity = $"evaluation after step {state.Step}";
        EvaluationMetrics result = evaluation.Run();
        reporter.Evaluation(result);
        return result.Loss;
    }

    private void Save(SaveSchedule saves, double? validationLoss)
    {
        context.World.Monitor.Activity = $"checkpoint of step {state.Step}";
        saver.Start(state.Part(validationLoss));
        saves.Restart();
    }

    // Unlike those before it, it must succeed: nothing else would be left of the steps since the one before.
    private void FinishLastCheckpoint()
    {
        context.World.Monitor.Activity = "finishing the last checkpoint";
        saver.Finish();
        if (saver.Failure is { } failure)
            throw new AgreedUserException(
                $"{failure} It was the run's last: free space or mend permissions, then go on with --resume auto."
            );
    }
}
