using System.Diagnostics;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;
using LongNet.Trainer.Reporting;
using LongNet.Trainer.Runs;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Loop;

/// <summary>
/// A run from its starting point to its last step: steps, evaluations, checkpoints, and what is told of them.
/// </summary>
/// <param name="plan">What to do.</param>
/// <param name="mesh">The ranks. Not owned.</param>
/// <param name="settings">What was set for the process, for the log.</param>
/// <param name="lastStep">Step to stop at; training.steps or earlier.</param>
/// <param name="resume">none, auto, or a path.</param>
/// <param name="console">Written to on rank 0 only.</param>
/// <param name="runtime">The ranks' runtime, whose signals ask for a stop while steps are done. Not owned.</param>
internal sealed class TrainingRun(
    RunPlan plan,
    DeviceMesh mesh,
    string settings,
    long lastStep,
    string resume,
    TextWriter console,
    DistributedRuntime runtime
)
{
    // A bit beside a saver's status.
    private const byte SaveIsDue = 8;

    private readonly RunDirectory directory = new(plan.Config.Output!);
    private readonly bool isRoot = mesh.World.Rank == 0;

    /// <summary>Trains. Collective over the world.</summary>
    /// <returns>
    /// Whether the last step is done; false where the run was asked to stop before, and has saved a checkpoint.
    /// </returns>
    /// <exception cref="AgreedUserException">The run directory, a checkpoint or the numbers forbid to go
    /// on.</exception>
    public bool Run()
    {
        var reporter = isRoot ? new ConsoleReporter(console, lastStep, plan.Config.Logging.EverySteps) : null;
        using RunLock? held = RankConsensus.RunLongOnRoot(mesh.World, directory.AcquireLock);
        if (held?.StaleHolder is { } holder)
            reporter!.Say($"note: the lock of {directory.Path} was left by {holder}.");
        StartingPoint? start = RankConsensus.RunLongOnRoot(mesh.World, () => directory.FindStart(resume));
        bool resumes = ObjectCollectives.Broadcast(mesh.World, [start is null ? (byte)0 : (byte)1], 0) is [1];

        mesh.World.Monitor.RecordFolder = directory.FlightRecords;
        mesh.World.Monitor.Activity = "building the model";
        using var state = new TrainingState(plan, mesh);
        reporter?.Say(
            $"{plan.Config.Name}: {state.ParameterCount:N0} parameters, optimizer state "
                + $"{state.Optimizer.StateBytes / 1e6:F1} MB per rank, mesh {plan.DataRanks} data x "
                + $"{plan.SequenceRanks} sequence, {settings}"
        );
        reporter?.Say(
            $"corpus: {plan.Corpus.Summary}, {plan.Split.TrainingWindows} training and "
                + $"{plan.Split.ValidationWindows} held-out windows of {plan.Split.SequenceLength} "
                + $"{plan.Corpus.TokenUnit}"
        );
        if (ConfigurationChanges.PrecisionAndMemory(plan.Config) is { Length: > 0 } chosen)
            reporter?.Say($"settings: {string.Join(", ", chosen)}");
        if (resumes)
            Resume(state, start, reporter);
        else if (plan.Config.Model.InitialWeights is { } weights)
            TakeInitialWeights(state, weights, reporter);

        if (state.Step >= lastStep)
        {
            reporter?.Say(
                $"Nothing to do: step {state.Step} of {lastStep} is done. Raise training.steps (--set "
                    + "training.steps=N) to train on."
            );
            return true;
        }

        RankConsensus.RunLongOnRoot(mesh.World, directory.RemoveLeftovers);
        if (RankConsensus.RunOnRoot(mesh.World, directory.DeleteStopFile))
            reporter!.Say(
                $"note: removed {directory.StopFile}, which was there before the run and would have stopped it."
            );
        if (plan.Config.Parallel.ShardOptimizer)
            directory.RequireShared(mesh.World);
        using MetricsWriter? metrics = RankConsensus.RunOnRoot(mesh.World, () => Open(resumes ? state.Step : null));
        using ITokenSource source = plan.Corpus.OpenTokens();
        var reader = new BatchReader(source, plan.Config.Training.SequenceLength);
        FaultInjection? drill = RankConsensus.Run(mesh.World, FaultInjection.FromProcess);
        var step = new TrainingStep(plan, mesh, state, reader, drill);
        var evaluation = new Evaluation(plan, mesh, state, reader);
        using CheckpointSaver saver = Saver(held, state, metrics, reporter, drill);
        try
        {
            return Train(held, state, step, evaluation, saver, metrics, reporter);
        }
        catch (AgreedUserException)
        {
            // What is being saved shall be whole, whatever else has gone wrong. That is what is to be told, and not
            // what a disk refuses besides.
            saver.Failed = failure => reporter!.Say($"warning: {failure}");
            saver.EndWithoutFailing();
            throw;
        }
    }

    private bool Train(
        RunLock? held,
        TrainingState state,
        TrainingStep step,
        Evaluation evaluation,
        CheckpointSaver saver,
        MetricsWriter? metrics,
        ConsoleReporter? reporter
    )
    {
        double? validationLoss = null;
        string? metricsProblem = null;
        bool evaluates = plan.Config.Evaluation.EverySteps > 0;
        long everySteps = plan.Config.Checkpoint.EverySteps;
        if (evaluates && state.Step == 0)
            Evaluate();
        var stop = new StopAgreement(runtime, directory, plan.Config.Training, held);
        bool stopped = false;
        var sinceSave = Stopwatch.StartNew();
        while (!stopped && state.Step < lastStep)
        {
            StepMetrics done = step.Run() with { CheckpointStallSeconds = saver.TakeStallSeconds() };
            // Its lines would come among the other run's. All ranks end together, below.
            bool takenOver = held?.IsTakenOver() == true;
            if (!takenOver)
                metrics?.Write(done);
            reporter?.Step(done);
            if (metrics?.Problem is { } problem && metricsProblem is null)
                reporter!.Say(
                    $"warning: {directory.MetricsFile} cannot be written: {problem.TrimEnd('.')}. Lines "
                        + "wait in memory, and no checkpoint can be saved until they can be."
                );
            metricsProblem = metrics?.Problem;
            bool last = state.Step == lastStep;
            validationLoss = null;
            if (evaluates && (last || state.Step % plan.Config.Evaluation.EverySteps == 0))
                Evaluate();

            StepAgreement agreement = stop.AfterStep(state.Step, (byte)(saver.Status | (IsTime() ? SaveIsDue : 0)));
            if (agreement.Reason == StopReason.TakenOver)
                throw TakenOver(held);
            stopped = agreement.Stops && !last;
            if (stopped)
                reporter?.Say($"stopping after step {state.Step} of {lastStep}: {stop.Explain(agreement)}");
            saver.Advance([.. agreement.Extras.Select(extra => (byte)(extra & ~SaveIsDue))]);
            if (
                last
                || stopped
                || (everySteps > 0 && state.Step % everySteps == 0)
                || (agreement.Extras[0] & SaveIsDue) != 0
            )
                Save();
        }

        mesh.World.Monitor.Activity = "finishing the last checkpoint";
        saver.Finish();
        // Nothing is left of the run but this.
        if (saver.Failure is { } failure)
            throw new AgreedUserException(
                $"{failure} It was the run's last: free space or mend permissions, then go on with --resume auto."
            );
        stop.Finish();
        return !stopped;

        void Evaluate()
        {
            mesh.World.Monitor.Activity = $"evaluation after step {state.Step}";
            EvaluationMetrics result = evaluation.Run();
            validationLoss = result.Loss;
            if (held?.TakenOverBy is null)
                metrics?.Write(result);
            reporter?.Evaluation(result);
        }

        // One clock decides for all.
        bool IsTime() =>
            isRoot
            && plan.Config.Checkpoint.EveryMinutes > 0
            && sinceSave.Elapsed.TotalMinutes >= plan.Config.Checkpoint.EveryMinutes;

        void Save()
        {
            mesh.World.Monitor.Activity = $"checkpoint of step {state.Step}";
            saver.Start(state.Part(validationLoss));
            sinceSave.Restart();
        }
    }

    // Nothing is saved any more: the other run writes there.
    private AgreedUserException TakenOver(RunLock? held) =>
        new(
            $"The run directory {directory.Path} was taken over by {held?.TakenOverBy ?? "another run"}, "
                + "because this run stood still for some time (suspended, or its "
                + "disk out of reach) and looked dead: the other run goes on from the last checkpoint, and "
                + "this one ends without saving."
        );

    private CheckpointSaver Saver(
        RunLock? held,
        TrainingState state,
        MetricsWriter? metrics,
        ConsoleReporter? reporter,
        FaultInjection? drill
    )
    {
        var saver = new CheckpointSaver(
            directory.Checkpoints(),
            mesh.World,
            CheckpointOptions.Of(plan.Config.Checkpoint)
        )
        {
            BeforeCommit = () =>
            {
                // What is on its way must not come among the other run's checkpoints, nor let go of any.
                if (held?.IsTakenOver() == true)
                    throw TakenOver(held);
                metrics!.Sync();
            },
            FileWritten = saving => drill?.At(FaultPoint.Checkpoint, mesh.World.Rank, saving),
            Failed = failure =>
                reporter!.Say($"warning: {failure} Training goes on (checkpoint.required: true would end it)."),
            Saved = (step, checkpoint) =>
            {
                reporter!.Say($"step {step}/{lastStep}  checkpoint {checkpoint.Path}");
                if (checkpoint.Warning is { } warning)
                    reporter.Say($"warning: {warning}");
            },
        };
        state.Changing = saver.AwaitSnapshot;
        return saver;
    }

    private static void TakeInitialWeights(TrainingState state, string weights, ConsoleReporter? reporter)
    {
        IReadOnlyList<string> notes = state.LoadInitialWeights(weights);
        reporter?.Say($"initial weights: {weights}");
        foreach (string note in notes)
            reporter?.Say($"note: {note}");
    }

    private void Resume(TrainingState state, StartingPoint? start, ConsoleReporter? reporter)
    {
        state.Load(start);
        if (start is not var (checkpoint, manifest, notes))
            return;
        foreach (string note in notes)
            reporter!.Say(note);
        reporter!.Say(
            $"resuming from {checkpoint} (step {state.Step}, written by {manifest.Mesh.Data} data x "
                + $"{manifest.Mesh.Sequence} sequence ranks)"
        );
        bool sameMesh = manifest.Mesh.Data == plan.DataRanks && manifest.Mesh.Sequence == plan.SequenceRanks;
        bool wasSharded = manifest.OptimizerSharded,
            shardingChanged = wasSharded != plan.Config.Parallel.ShardOptimizer;
        if (
            sameMesh
            && (
                manifest.ThreadsPerRank != TorchSharp.torch.get_num_threads()
                || manifest.MicroBatchSize != plan.Batch.MicroBatchSize
                || shardingChanged
            )
        )
        {
            reporter.Say(
                $"note: it was written with {manifest.ThreadsPerRank} CPU threads per rank and micro-batches "
                    + $"of {manifest.MicroBatchSize}"
                    + (shardingChanged ? $", {(wasSharded ? "with" : "without")} parallel.shard_optimizer" : "")
                    + ", so numbers agree with that run's to rounding, not to the bit."
            );
        }

        if (manifest.Corpus != plan.Corpus.Fingerprint)
            reporter.Say(
                $"warning: the corpus is not the one trained on so far ({plan.Corpus.Fingerprint}; it was "
                    + $"{manifest.Corpus}), so samples differ from here on."
            );
        string[] changed = ConfigurationChanges.ChangedKeys(manifest.Config, plan.Config);
        if (changed.Length > 0)
            reporter.Say($"warning: since the checkpoint these keys have changed: {string.Join("; ", changed)}");
    }

    private MetricsWriter Open(long? step)
    {
        try
        {
            DurableFile.Write(directory.ConfigFile, ConfigurationText.ToYaml(plan.Config));
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw RunDirectory.CannotWrite(directory.Path, error);
        }

        return new MetricsWriter(directory.MetricsFile, step);
    }
}
