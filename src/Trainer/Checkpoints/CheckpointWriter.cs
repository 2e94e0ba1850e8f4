using System.Diagnostics;
using LongNet.Core;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Checkpoints;

/// <summary>A checkpoint that is complete.</summary>
/// <param name="Path">Its folder.</param>
/// <param name="Seconds">From the save's beginning until it was complete and synced to the disk.</param>
/// <param name="Warning">What went wrong after that, such as an old one that cannot be deleted; null for
/// nothing.</param>
internal sealed record CommittedCheckpoint(string Path, double Seconds, string? Warning);

/// <summary>
/// Brings a checkpoint to the disk: every rank writes its part, then rank 0 commits them. Whenever the machine stops, a
/// folder with a checkpoint's name is complete, and older ones are unchanged.
/// </summary>
/// <param name="store">The run's checkpoints.</param>
/// <param name="retention">Which older ones are removed once the new one is complete.</param>
/// <param name="files">How the disk is touched.</param>
/// <param name="events">Only <see cref="ICheckpointEvents.FileWritten"/>; the other events are the saver's.</param>
internal sealed class CheckpointWriter(
    CheckpointStore store,
    CheckpointRetention retention,
    FileOperations files,
    ICheckpointEvents events
)
{
    private const string ExpiredSuffix = ".expired";

    /// <summary>Writes a rank's part into the folder that is not the checkpoint yet.</summary>
    /// <returns>The model's file, on rank 0, and the optimizer shard's.</returns>
    /// <exception cref="IOException">The disk refuses.</exception>
    public CheckpointFile[] WritePart(CheckpointPart part)
    {
        PartialCheckpoint partial = PartialOf(part);
        partial.Create(part.Bytes);
        // At the same time: two digests take two processors.
        Task<CheckpointFile>[] writes =
        [
            .. part.Model.Count == 0
                ? []
                : new[] { Task.Run(() => Written(partial.WriteTensors(CheckpointStore.ModelFile, part.Model))) },
            Task.Run(() =>
                Written(
                    partial.WriteTensors(
                        OptimizerShard.FileName(part.Shard, part.Manifest.OptimizerShards),
                        part.Optimizer.Select(slice => (slice.Name, slice.Value)),
                        OptimizerShard.Metadata(part.Optimizer)
                    )
                )
            ),
        ];
        CheckpointFile[] written = Task.WhenAll(writes).GetAwaiter().GetResult();
        partial.Sync();
        return written;

        CheckpointFile Written(CheckpointFile file)
        {
            events.FileWritten(part.Manifest.Step);
            return file;
        }
    }

    /// <summary>
    /// Makes the parts of all ranks a checkpoint, points LATEST and BEST to where they belong, and removes what has
    /// expired.
    /// </summary>
    /// <param name="part">Rank 0's.</param>
    /// <param name="parts">The files of all ranks.</param>
    /// <param name="clock">Started with the save.</param>
    /// <exception cref="UserException">A file of another rank cannot be seen from here.</exception>
    /// <exception cref="IOException">The disk refuses.</exception>
    public CommittedCheckpoint Commit(CheckpointPart part, IReadOnlyList<CheckpointFile> parts, Stopwatch clock)
    {
        PartialCheckpoint partial = PartialOf(part);
        foreach (CheckpointFile file in parts)
        {
            if (partial.SizeOf(file.Name) is not { } bytes || bytes != file.Bytes)
                throw new UserException(
                    $"{file.Name}, which another rank has written, is not to be seen by rank 0 in "
                        + $"{partial.Path}: the run directory must lie on a file system that all ranks share."
                );
        }

        string path = partial.Complete(part.Manifest with { Files = parts });
        long? best;
        try
        {
            // Both are looked at: an earlier save may have ended before it wrote them.
            best = store.Repoint(files);
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            // The checkpoint is found without them, and the next save writes them again. Older ones stay until then, as
            // LATEST and BEST may name them.
            return new CommittedCheckpoint(
                path,
                clock.Elapsed.TotalSeconds,
                $"LATEST and BEST do not tell of the checkpoint of step {part.Manifest.Step}, which is whole: "
                    + $"{error.Message}"
            );
        }

        double seconds = clock.Elapsed.TotalSeconds;
        return new CommittedCheckpoint(path, seconds, RemoveExpired(best));
    }

    /// <summary>Removes the parts of a checkpoint that could not be written.</summary>
    public void Abandon(CheckpointPart part) => PartialOf(part).Abandon();

    // It loses its name first: a power cut must not leave half a checkpoint under a checkpoint's name.
    private string? RemoveExpired(long? best)
    {
        string? problem = null;
        foreach (long step in retention.Expired(store.Steps(), best))
        {
            try
            {
                string expired = Path.Combine(store.Folder, "." + CheckpointStore.NameOf(step) + ExpiredSuffix);
                files.Rename(store.PathOf(step), expired);
                files.SyncFolder(store.Folder);
                files.DeleteFolder(expired);
            }
            catch (Exception error) when (DiskError.Is(error))
            {
                // Others may still be removable.
                problem ??=
                    $"The checkpoint of step {step}, which is no longer to be kept, cannot be removed: {error.Message}";
            }
        }

        return problem;
    }

    private PartialCheckpoint PartialOf(CheckpointPart part) =>
        new(store.Folder, CheckpointStore.NameOf(part.Manifest.Step), files);
}
