using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Configuration;

namespace LongNet.Trainer.Loop;

/// <summary>What a person should know about a run that continues from a checkpoint.</summary>
internal static class ResumeReport
{
    /// <summary>Lines for the console.</summary>
    /// <param name="start">The checkpoint.</param>
    /// <param name="plan">The run that continues.</param>
    /// <param name="threads">CPU threads per rank of this run.</param>
    public static IEnumerable<string> Of(StartingPoint start, RunPlan plan, int threads)
    {
        var (checkpoint, manifest, notes) = start;
        foreach (string note in notes)
            yield return note;
        yield return $"resuming from {checkpoint} (step {manifest.Step}, written by {manifest.Mesh.Data} data x "
            + $"{manifest.Mesh.Sequence} sequence ranks)";
        if (Rounding(manifest, plan, threads) is { } rounding)
            yield return rounding;
        if (manifest.Corpus != plan.Corpus.Fingerprint)
        {
            yield return $"warning: the corpus is not the one trained on so far ({plan.Corpus.Fingerprint}; it was "
                + $"{manifest.Corpus}), so samples differ from here on.";
        }

        string[] changed = ConfigurationChanges.ChangedKeys(manifest.Config, plan.Config);
        if (changed.Length > 0)
            yield return $"warning: since the checkpoint these keys have changed: {string.Join("; ", changed)}";
    }

    // Null where the mesh is another one, which "resuming from" says, or where nothing differs that changes rounding.
    private static string? Rounding(CheckpointManifest manifest, RunPlan plan, int threads)
    {
        bool sameMesh = manifest.Mesh.Data == plan.DataRanks && manifest.Mesh.Sequence == plan.SequenceRanks;
        bool shardingChanged = manifest.OptimizerSharded != plan.Config.Parallel.ShardOptimizer;
        bool splitChanged =
            manifest.ThreadsPerRank != threads
            || manifest.MicroBatchSize != plan.Batch.MicroBatchSize
            || shardingChanged;
        if (!sameMesh || !splitChanged)
            return null;
        string sharding = shardingChanged
            ? $", {(manifest.OptimizerSharded ? "with" : "without")} parallel.shard_optimizer"
            : "";
        return $"note: it was written with {manifest.ThreadsPerRank} CPU threads per rank and micro-batches of "
            + $"{manifest.MicroBatchSize}{sharding}, so numbers agree with that run's to rounding, not to the bit.";
    }
}
