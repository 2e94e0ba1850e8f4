using LongNet.Core.Devices;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;
using LongNet.Trainer.Reporting;
using LongNet.Trainer.Runs;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Loop;

/// <summary>
/// A run from its starting point to its last step: takes the run directory, builds the model, resumes, and starts the
/// <see cref="TrainingLoop"/>.
/// </summary>
/// <param name="context">What to do, and where.</param>
internal sealed class TrainingRun(RunContext context)
{
    private readonly RunPlan plan = context.Plan;
    private readonly ProcessGroup world = context.World;
    private readonly RunDirectory directory = context.Directory;

    // Of rank 0; other ranks report nothing.
    private readonly IRunReporter console =
        context.World.Rank == 0
            ? new ConsoleReporter(context.Console, context.LastStep, context.Plan.Config.Logging.EverySteps)
            : NullReporter.Instance;

    /// <summary>Trains. Collective over the world.</summary>
    /// <returns>
    /// Whether the last step is done; false where the run was asked to stop before, and has saved a checkpoint.
    /// </returns>
    /// <exception cref="AgreedUserException">The run directory, a checkpoint or the numbers forbid to
    /// continue.</exception>
    public bool Run()
    {
        using RunLock? runLock = AcquireLock();
        StartingPoint? start = RankConsensus.RunSlowOnRoot(world, () => directory.FindStart(context.Resume));
        bool resumes = ObjectCollectives.Broadcast(world, [start is null ? (byte)0 : (byte)1], 0) is [1];
        using TrainingState state = BuildState();
        if (resumes)
            Resume(state, start);
        else if (plan.Config.Model.InitialWeights is { } weights)
            LoadInitialWeights(state, weights);
        if (state.Step >= context.LastStep)
        {
            console.Message(
                $"Nothing to do: step {state.Step} of {context.LastStep} is done. Raise training.steps (--set "
                    + "training.steps=N) to train on."
            );
            return true;
        }

        PrepareDirectory();
        using MetricsWriter? metrics = RankConsensus.RunOnRoot(world, () => OpenMetrics(resumes ? state.Step : null));
        return Train(state, runLock, metrics);
    }

    // Null on ranks other than 0.
    private RunLock? AcquireLock()
    {
        RunLock? runLock = RankConsensus.RunSlowOnRoot(world, directory.AcquireLock);
        if (runLock?.StaleHolder is { } holder)
            console.Note($"the lock of {directory.Path} was left by {holder}.");
        return runLock;
    }

    private TrainingState BuildState()
    {
        world.Monitor.RecordFolder = directory.FlightRecords;
        world.Monitor.Activity = "building the model";
        var state = TrainingState.Create(plan, context.Mesh, context.Device);
        console.Started(
            new RunDescription
            {
                Name = plan.Config.Name!,
                Parameters = state.ParameterCount,
                OptimizerStateBytes = state.Optimizer.StateBytes,
                DataRanks = plan.DataRanks,
                SequenceRanks = plan.SequenceRanks,
                Device = Describe(context.Device),
                ProcessSettings = context.ProcessSettings,
                Corpus = plan.Corpus.Summary,
                TrainingWindows = plan.Split.TrainingWindows,
                ValidationWindows = plan.Split.ValidationWindows,
                SequenceLength = plan.Split.SequenceLength,
                TokenUnit = plan.Corpus.TokenUnit,
                PrecisionAndMemory = ConfigurationChanges.PrecisionAndMemory(plan.Config),
            }
        );
        return state;
    }

    private static string Describe(ComputeDevice device) =>
        device.Name is { } name ? $"{device.Device} ({name})" : $"{device.Device}";

    private void Resume(TrainingState state, StartingPoint? start)
    {
        state.Load(start);
        // Rank 0 has the starting point.
        if (start is null)
            return;
        foreach (string line in ResumeReport.Of(start, plan, TorchSharp.torch.get_num_threads()))
            console.Message(line);
    }

    private void LoadInitialWeights(TrainingState state, string weights)
    {
        IReadOnlyList<string> notes = state.LoadInitialWeights(weights);
        console.Message($"initial weights: {weights}");
        foreach (string note in notes)
            console.Note(note);
    }

    // Removes what earlier runs left, and sees that all ranks have the same folder where all write.
    private void PrepareDirectory()
    {
        RankConsensus.RunSlowOnRoot(world, directory.RemoveLeftovers);
        if (RankConsensus.RunOnRoot(world, directory.DeleteStopFile))
            console.Note($"removed {directory.StopFile}, which was there before the run and would have stopped it.");
        if (plan.Config.Parallel.ShardOptimizer)
            directory.RequireShared(world);
    }

    private MetricsWriter OpenMetrics(long? step)
    {
        try
        {
            DurableFile.Write(directory.ConfigFile, ConfigurationText.ToYaml(plan.Config));
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw RunDirectory.CannotWrite(directory.Path, error);
        }

        return new MetricsWriter(directory.MetricsFile, step);
    }

    private bool Train(TrainingState state, RunLock? runLock, MetricsWriter? metrics)
    {
        using ITokenSource source = plan.Corpus.OpenTokens();
        var reader = new BatchReader(source, plan.Config.Training.SequenceLength);
        FaultInjection? fault = RankConsensus.Run(world, FaultInjection.FromProcess);
        StepServices services = StepServices.From(plan, reader) with { Fault = fault, Clock = context.Clock };
        using var step = new TrainingStep(plan, context.Mesh, state, services);
        var evaluation = new Evaluation(plan, context.Mesh, state.TrainedModel, reader);
        // Metrics last, so that the console reports a step before a warning about its line.
        IRunReporter reporter =
            metrics is null || runLock is null
                ? console
                : new CompositeReporter(console, new MetricsReporter(metrics, runLock, console));
        var events = new RunCheckpointEvents
        {
            Rank = world.Rank,
            Directory = directory,
            Lock = runLock,
            Metrics = metrics,
            Reporter = reporter,
            Fault = fault,
        };
        using var saver = new CheckpointSaver(
            directory.Checkpoints(),
            world,
            CheckpointOptions.Of(plan.Config.Checkpoint),
            events
        );
        try
        {
            return new TrainingLoop(context, runLock, state, step, evaluation, saver, reporter).Run();
        }
        catch (AgreedUserException)
        {
            // The checkpoint that is being written becomes complete all the same. The run fails with the error that
            // led here; one of the disk is only a warning beside it.
            saver.FinishAfterFailure();
            throw;
        }
    }
}
