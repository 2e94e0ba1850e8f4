using LongNet.Distributed.Collectives;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Data;
using LongNet.Trainer.Loop;

namespace LongNet.Trainer.Benchmarks;

/// <summary>What saving a run's state takes.</summary>
/// <param name="Bytes">Bytes of the checkpoint's tensors, over all ranks.</param>
/// <param name="Seconds">From the beginning of a save until it is complete and synced to the disk, while nothing
/// else runs: the median.</param>
/// <param name="BehindSeconds">The same while training steps run: the median.</param>
/// <param name="StallSeconds">How long saving delayed those steps: the median.</param>
internal sealed record SaveTimes(long Bytes, double Seconds, double BehindSeconds, double StallSeconds)
{
    public double BytesPerSecond => Bytes / Seconds;

    public double StallShare => StallSeconds / BehindSeconds;
}

/// <summary>Saves as a run does, by itself and behind real training steps.</summary>
internal static class CheckpointBenchmark
{
    /// <summary>Runs the saves, each of which replaces the one before. Collective over the mesh.</summary>
    /// <param name="folder">Where checkpoints go: an empty folder on the disk to measure.</param>
    public static SaveTimes Run(RunPlan plan, DeviceMesh mesh, string folder, int saves)
    {
        using var state = new TrainingState(plan, mesh);
        using ITokenSource source = plan.Corpus.OpenTokens();
        var step = new TrainingStep(plan, mesh, state, new BatchReader(source, plan.Config.Training.SequenceLength));
        step.Run();
        double undisturbed = Median(Save(asynchronous: false).Select(save => save.Seconds));
        (double Seconds, double Stall)[] behind = [.. Save(asynchronous: true)];
        return new SaveTimes(
            state.Part(null).Bytes,
            undisturbed,
            Median(behind.Select(save => save.Seconds)),
            Median(behind.Select(save => save.Stall))
        );

        IEnumerable<(double Seconds, double Stall)> Save(bool asynchronous)
        {
            double seconds = 0;
            using var saver = new CheckpointSaver(
                new CheckpointStore(folder),
                mesh.World,
                new CheckpointOptions(asynchronous, Required: true, new CheckpointRetention(1, 0))
            )
            {
                Saved = (_, checkpoint) => seconds = checkpoint.Seconds,
            };
            state.Changing = saver.AwaitSnapshot;
            // The first save, which allocates the memory that the others reuse, does not count.
            for (int save = -1; save < saves; save++)
            {
                step.Run();
                _ = saver.TakeStallSeconds();
                saver.Start(state.Part(null));
                if (asynchronous)
                    step.Run();
                double stall = saver.TakeStallSeconds();
                saver.Finish();
                if (save >= 0)
                    yield return (seconds, stall);
            }
        }
    }

    private static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return sorted[sorted.Length / 2];
    }
}
