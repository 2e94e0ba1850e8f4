using LongNet.Core.Devices;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Data;
using LongNet.Trainer.Loop;

namespace LongNet.Trainer.Benchmarks;

/// <summary>What saving a run's state takes.</summary>
/// <param name="Bytes">Of the checkpoint's tensors, over all ranks.</param>
/// <param name="Seconds">From its beginning until it is whole and synced to the disk, while nothing else goes on: the
/// median.</param>
/// <param name="BehindSeconds">The same behind training steps: the median.</param>
/// <param name="StallSeconds">How long saving behind them held the loop up: the median.</param>
internal sealed record SaveTimes(long Bytes, double Seconds, double BehindSeconds, double StallSeconds)
{
    public double BytesPerSecond => Bytes / Seconds;

    public double StallShare => StallSeconds / BehindSeconds;
}

/// <summary>Saves as a run does, alone and behind real training steps.</summary>
internal static class CheckpointBenchmark
{
    /// <summary>Runs the saves, each of which replaces the one before. Collective over the mesh.</summary>
    /// <param name="folder">Where they go: an empty folder on the disk that is meant.</param>
    public static SaveTimes Run(RunPlan plan, DeviceMesh mesh, string folder, int saves)
    {
        using var state = TrainingState.Create(plan, mesh, ComputeDevice.Cpu);
        using ITokenSource source = plan.Corpus.OpenTokens();
        var reader = new BatchReader(source, plan.Config.Training.SequenceLength);
        using var step = new TrainingStep(plan, mesh, state, StepServices.From(plan, reader));
        step.Run();
        double alone = Median(Save(asynchronous: false).Select(save => save.Seconds));
        (double Seconds, double Stall)[] behind = [.. Save(asynchronous: true)];
        return new SaveTimes(
            state.Part(null).Bytes,
            alone,
            Median(behind.Select(save => save.Seconds)),
            Median(behind.Select(save => save.Stall))
        );

        IEnumerable<(double Seconds, double Stall)> Save(bool asynchronous)
        {
            var events = new LastSave();
            using var saver = new CheckpointSaver(
                new CheckpointStore(folder),
                mesh.World,
                new CheckpointOptions(asynchronous, Required: true, new CheckpointRetention(1, 0)),
                events
            );
            // The first save allocates the memory that the others reuse.
            for (int save = -1; save < saves; save++)
            {
                step.Run(saver);
                _ = saver.TakeStallSeconds();
                saver.Start(state.Part(null));
                if (asynchronous)
                    step.Run(saver);
                double stall = saver.TakeStallSeconds();
                saver.Finish();
                if (save >= 0)
                    yield return (events.Seconds, stall);
            }
        }
    }

    private static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return sorted[sorted.Length / 2];
    }

    private sealed class LastSave : ICheckpointEvents
    {
        public double Seconds { get; private set; }

        public void Saved(long step, CommittedCheckpoint checkpoint) => Seconds = checkpoint.Seconds;
    }
}
