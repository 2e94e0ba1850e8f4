using LongNet.Core;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Runs;

/// <summary>
/// A run's folder: config.yaml, metrics.jsonl, checkpoints, and flight records where a job failed.
/// </summary>
/// <param name="Path">The folder.</param>
internal sealed record RunDirectory(string Path)
{
    public string ConfigFile => System.IO.Path.Combine(Path, "config.yaml");

    public string MetricsFile => System.IO.Path.Combine(Path, "metrics.jsonl");

    public string CheckpointFolder => System.IO.Path.Combine(Path, "checkpoints");

    public string FlightRecords => System.IO.Path.Combine(Path, FlightRecord.FolderName);

    /// <summary>A file by which a user asks the run to stop after its step; only whether it is there counts.</summary>
    public string StopFile => System.IO.Path.Combine(Path, "STOP");

    /// <summary>Makes the folder and keeps other runs out of it, until the lock is disposed.</summary>
    /// <exception cref="UserException">Another run is at work there, or the folder cannot be written.</exception>
    public RunLock AcquireLock() => RunLock.Acquire(Path);

    /// <summary>Removes flight records, so that those found later are of one job.</summary>
    /// <returns>Whether there were any.</returns>
    /// <exception cref="UserException">They cannot be removed.</exception>
    public bool DeleteFlightRecords() => Remove("The flight records of an earlier job", () =>
        {
            if (!Directory.Exists(FlightRecords))
                return false;
            Directory.Delete(FlightRecords, recursive: true);
            return true;
        });

    /// <summary>Removes the file that asks a run to stop, so that it does not stop the next one.</summary>
    /// <returns>Whether there was one.</returns>
    /// <exception cref="UserException">It cannot be removed.</exception>
    public bool DeleteStopFile()
    {
        if (!File.Exists(StopFile))
            return false;
        try
        {
            File.Delete(StopFile);
            return true;
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw new UserException(
                $"{StopFile}, which asks a run to stop, cannot be removed: {error.Message} Remove it, then "
                    + "go on with --resume auto."
            );
        }
    }

    /// <summary>
    /// Sees at the start that all ranks will write into the same folder, not into one of the same name on each machine.
    /// Collective.
    /// </summary>
    /// <exception cref="AgreedUserException">A rank does not see what rank 0 writes there.</exception>
    public void RequireShared(ProcessGroup group)
    {
        // A name that was never asked for: no machine can answer from its cache.
        string name = ObjectCollectives.BroadcastText(
            group,
            group.Rank == 0 ? $".seen-by-all-{Guid.NewGuid():N}" : null,
            0
        );
        string probe = System.IO.Path.Combine(Path, name);
        RankConsensus.RunOnRoot(group, () => WriteProbe(probe));
        try
        {
            RankConsensus.Run(group, () =>
            {
                if (!File.Exists(probe))
                {
                    throw new UserException(
                        $"The run directory {System.IO.Path.GetFullPath(Path)} is not the one that rank 0 "
                            + "writes to. It must lie on a file system that all "
                            + "ranks share when parallel.shard_optimizer is on."
                    );
                }
            });
        }
        finally
        {
            if (group.Rank == 0)
                File.Delete(probe);
        }
    }

    internal static UserException CannotWrite(string path, Exception error) =>
        new($"The run directory {path} cannot be written: {error.Message} Choose another with --output.");

    /// <summary>Removes something from the folder.</summary>
    /// <param name="what">The subject of the error's sentence.</param>
    /// <param name="remove">Returns whether there was anything.</param>
    /// <exception cref="UserException">The disk refuses.</exception>
    internal bool Remove(string what, Func<bool> remove)
    {
        try
        {
            return remove();
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw new UserException($"{what} in {Path} cannot be removed: {error.Message}");
        }
    }

    private bool WriteProbe(string probe)
    {
        try
        {
            DurableFile.Write(probe, "");
            return true;
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw CannotWrite(Path, error);
        }
    }
}
