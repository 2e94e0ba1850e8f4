using System.Globalization;
using LongNet.Distributed;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;
using LongNet.Trainer.Reporting;

namespace LongNet.Trainer.Loop;

/// <summary>A run from its starting point to its last step: steps, evaluations, checkpoints, and what is told of them.</summary>
/// <param name="plan">What to do.</param>
/// <param name="mesh">The ranks. Not owned.</param>
/// <param name="settings">What was set for the process, for the log.</param>
/// <param name="lastStep">Step to stop at; training.steps or earlier.</param>
/// <param name="resume">none, auto, or a path.</param>
/// <param name="console">Written to on rank 0 only.</param>
public sealed class TrainingRun(RunPlan plan, DeviceMesh mesh, string settings, long lastStep, string resume, TextWriter console)
{
    private readonly RunDirectory directory = new(plan.Config.Output!);
    private readonly bool isRoot = mesh.World.Rank == 0;

    /// <summary>Trains. Collective over the world.</summary>
    /// <exception cref="UnanimousException">The run directory, a checkpoint or the numbers forbid to go on.</exception>
    public void Run()
    {
        var reporter = isRoot ? new ConsoleReporter(console, lastStep, plan.Config.Logging.EverySteps) : null;
        string? start = RankAgreement.RunOnRoot(mesh.World, () => directory.StartingPoint(resume));
        start = RankAgreement.BroadcastText(mesh.World, start ?? "", 0) is { Length: > 0 } text ? text : null;

        mesh.World.Monitor.RecordFolder = directory.FlightRecords;
        mesh.World.Monitor.Activity = "building the model";
        using var state = new TrainingState(plan, mesh);
        reporter?.Say(string.Create(
            CultureInfo.InvariantCulture,
            $"{plan.Config.Name}: {state.ParameterCount:N0} parameters, optimizer state {state.Optimizer.StateBytes / 1e6:F1} MB per rank, mesh {plan.DataRanks} data x {plan.SequenceRanks} sequence, {settings}"));
        reporter?.Say(string.Create(
            CultureInfo.InvariantCulture,
            $"corpus: {plan.Corpus.Files.Count} files, {plan.Split.TrainingWindows} training and {plan.Split.ValidationWindows} held-out windows of {plan.Split.SequenceLength} bytes"));
        if (start is not null)
            Resume(state, start, reporter);
        else if (plan.Config.Model.InitialWeights is { } weights)
            TakeInitialWeights(state, weights, reporter);

        if (state.Step >= lastStep)
        {
            reporter?.Say($"Nothing to do: step {state.Step} of {lastStep} is done. Raise training.steps (--set training.steps=N) to train on.");
            return;
        }

        using FileStream? held = RankAgreement.RunOnRoot(mesh.World, directory.Hold);
        RankAgreement.RunOnRoot(mesh.World, directory.ForgetFlightRecords);
        if (plan.Config.Parallel.ShardOptimizer)
            directory.RequireShared(mesh.World);
        using MetricsWriter? metrics = RankAgreement.RunOnRoot(mesh.World, () => Open(start is null ? null : state.Step));
        using var source = new ByteTokenSource(plan.Corpus);
        var reader = new BatchReader(source, plan.Config.Training.SequenceLength);
        FaultDrill? drill = RankAgreement.Run(mesh.World, FaultDrill.FromProcess);
        var step = new TrainingStep(plan, mesh, state, reader, drill);
        var evaluation = new Evaluation(plan, mesh, state, reader);
        bool evaluates = plan.Config.Evaluation.EverySteps > 0;
        if (evaluates && state.Step == 0)
            Evaluate();
        while (state.Step < lastStep)
        {
            StepMetrics done = step.Run();
            metrics?.Write(done);
            reporter?.Step(done);
            bool last = state.Step == lastStep;
            if (evaluates && (last || state.Step % plan.Config.Evaluation.EverySteps == 0))
                Evaluate();
            if (last || (plan.Config.Checkpoint.EverySteps > 0 && state.Step % plan.Config.Checkpoint.EverySteps == 0))
                Save();
        }

        void Evaluate()
        {
            mesh.World.Monitor.Activity = $"evaluation after step {state.Step}";
            EvaluationMetrics result = evaluation.Run();
            metrics?.Write(result);
            reporter?.Evaluation(result);
        }

        void Save()
        {
            mesh.World.Monitor.Activity = $"checkpoint of step {state.Step}";
            RankAgreement.RunOnRoot(mesh.World, () =>
            {
                metrics!.Sync();
                return true;
            });
            CheckpointStore store = directory.Checkpoints;
            store.FileWritten = () => drill?.At(FaultPlace.Checkpoint, mesh.World.Rank, state.Step);
            string saved = state.Save(store);
            reporter?.Say($"step {state.Step}/{lastStep}  checkpoint {saved}");
        }
    }

    private static void TakeInitialWeights(TrainingState state, string weights, ConsoleReporter? reporter)
    {
        IReadOnlyList<string> notes = state.LoadInitialWeights(weights);
        reporter?.Say($"initial weights: {weights}");
        foreach (string note in notes)
            reporter?.Say($"note: {note}");
    }

    private void Resume(TrainingState state, string checkpoint, ConsoleReporter? reporter)
    {
        CheckpointManifest? manifest = state.Load(checkpoint);
        if (manifest is null)
            return;
        reporter!.Say($"resuming from {checkpoint} (step {state.Step}, written by {manifest.Mesh.Data} data x {manifest.Mesh.Sequence} sequence ranks)");
        bool sameMesh = manifest.Mesh.Data == plan.DataRanks && manifest.Mesh.Sequence == plan.SequenceRanks;
        bool wasSharded = manifest.OptimizerShards is not null, shardingChanged = wasSharded != plan.Config.Parallel.ShardOptimizer;
        if (sameMesh && (manifest.ThreadsPerRank != TorchSharp.torch.get_num_threads() || manifest.MicroBatchSize != plan.Batch.MicroBatchSize || shardingChanged))
        {
            reporter.Say(
                $"note: it was written with {manifest.ThreadsPerRank} CPU threads per rank and micro-batches of {manifest.MicroBatchSize}" +
                (shardingChanged ? $", {(wasSharded ? "with" : "without")} parallel.shard_optimizer" : "") +
                ", so numbers agree with that run's to rounding, not to the bit.");
        }

        if (manifest.Corpus != plan.Corpus.Fingerprint)
            reporter.Say($"warning: the corpus is not the one trained on so far ({plan.Corpus.Fingerprint}; it was {manifest.Corpus}), so samples differ from here on.");
        string[] changed = ConfigurationFile.ChangedKeys(
            File.ReadAllText(Path.Combine(checkpoint, CheckpointStore.ConfigFile)), ConfigurationFile.ToYaml(plan.Config));
        if (changed.Length > 0)
            reporter.Say($"warning: since the checkpoint these keys have changed: {string.Join("; ", changed)}");
    }

    private MetricsWriter Open(long? step)
    {
        try
        {
            DurableFile.Write(directory.ConfigFile, ConfigurationFile.ToYaml(plan.Config));
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new Core.UserException($"The run directory {directory.Path} cannot be written: {error.Message} Choose another with --output.");
        }

        return new MetricsWriter(directory.MetricsFile, step);
    }
}
