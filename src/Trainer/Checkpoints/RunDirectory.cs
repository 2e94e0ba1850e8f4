using LongNet.Core;
using LongNet.Distributed;
using LongNet.Distributed.Diagnostics;

namespace LongNet.Trainer.Checkpoints;

/// <summary>A run's folder: config.yaml, metrics.jsonl, checkpoints, and flight records where a job came to grief.</summary>
/// <param name="Path">The folder.</param>
public sealed record RunDirectory(string Path)
{
    public string ConfigFile => System.IO.Path.Combine(Path, "config.yaml");

    public string MetricsFile => System.IO.Path.Combine(Path, "metrics.jsonl");

    public string CheckpointFolder => System.IO.Path.Combine(Path, "checkpoints");

    public string FlightRecords => System.IO.Path.Combine(Path, FlightRecord.FolderName);

    public CheckpointStore Checkpoints => new(CheckpointFolder);

    /// <summary>Makes the folder and keeps other runs out of it, for as long as what is returned is open.</summary>
    /// <exception cref="UserException">Another run is at work there, or the folder cannot be made.</exception>
    public FileStream Hold()
    {
        try
        {
            DurableFile.CreateFolder(Path);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw CannotWrite(error);
        }

        string path = System.IO.Path.Combine(Path, ".lock");
        try
        {
            return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1, FileOptions.DeleteOnClose);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new UserException(
                $"The run directory {Path} is in use by another run, or cannot be written ({error.Message.TrimEnd('.')}): wait for it to end, or choose another --output.");
        }
    }

    /// <summary>Removes the flight records of an earlier job, so that those found later are of one job.</summary>
    /// <returns>Whether there were any.</returns>
    /// <exception cref="UserException">The folder cannot be removed.</exception>
    public bool ForgetFlightRecords()
    {
        if (!Directory.Exists(FlightRecords))
            return false;
        try
        {
            Directory.Delete(FlightRecords, recursive: true);
            return true;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new UserException($"The flight records of an earlier job in {FlightRecords} cannot be removed: {error.Message}");
        }
    }

    /// <summary>Sees at the start that all ranks will write into the same folder, not into one of the same name on each machine. Collective.</summary>
    /// <exception cref="UnanimousException">A rank does not see what rank 0 writes there.</exception>
    public void RequireShared(ProcessGroup group)
    {
        ArgumentNullException.ThrowIfNull(group);
        // A name that was never asked for: no machine can answer from its cache.
        string name = RankAgreement.BroadcastText(group, group.Rank == 0 ? $".seen-by-all-{Guid.NewGuid():N}" : null, 0);
        string probe = System.IO.Path.Combine(Path, name);
        RankAgreement.RunOnRoot(group, () => Probing(() => DurableFile.Write(probe, "")));
        try
        {
            RankAgreement.Run(group, () =>
            {
                if (!File.Exists(probe))
                {
                    throw new UserException(
                        $"The run directory {System.IO.Path.GetFullPath(Path)} is not the one that rank 0 writes to. It must lie on a file system that all " +
                        "ranks share when parallel.shard_optimizer is on.");
                }
            });
        }
        finally
        {
            if (group.Rank == 0)
                File.Delete(probe);
        }

        bool Probing(Action write)
        {
            try
            {
                write();
                return true;
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                throw CannotWrite(error);
            }
        }
    }

    /// <summary>Decides which checkpoint a run starts from, so that no run ever writes over another's.</summary>
    /// <param name="resume">none, auto, or the path of a checkpoint or of a run.</param>
    /// <returns>The checkpoint's folder; null to start anew.</returns>
    /// <exception cref="UserException">There is a checkpoint that this run would write over, or none where one was named.</exception>
    public string? StartingPoint(string resume)
    {
        ArgumentNullException.ThrowIfNull(resume);
        IReadOnlyList<long> own = Checkpoints.Steps();
        if (resume == "auto")
            return Newest(own);
        if (resume == "none")
        {
            return own.Count == 0 ? null : throw new UserException(
                $"{Path} already has a checkpoint of step {own[^1]}: add --resume auto to go on from it, or --output DIR to start another run.");
        }

        string checkpoint = File.Exists(System.IO.Path.Combine(resume, CheckpointManifest.FileName))
            ? resume
            : new RunDirectory(resume).Checkpoints.Latest() ?? throw new UserException(
                $"--resume {resume}: there is no checkpoint. Give auto, none, a folder such as runs/NAME/checkpoints/step-00000100, or a run's folder.");
        long step = CheckpointManifest.Read(checkpoint).Step;
        bool inside = System.IO.Path.GetFullPath(checkpoint).StartsWith(System.IO.Path.GetFullPath(CheckpointFolder) + System.IO.Path.DirectorySeparatorChar, StringComparison.Ordinal);
        // Going back within a run would write over its later steps; branching off belongs into a folder of its own.
        return own.Count == 0 || (inside && own[^1] == step)
            ? checkpoint
            : throw new UserException(
                $"{Path} already has a checkpoint of step {own[^1]}, which resuming from {checkpoint} (step {step}) would write over: " +
                "choose another --output, or remove the later checkpoints.");
    }

    private UserException CannotWrite(Exception error) => new($"The run directory {Path} cannot be written: {error.Message} Choose another with --output.");

    // What LATEST names, or the one after it: a stop between a checkpoint's rename and LATEST's leaves one that is whole.
    private string? Newest(IReadOnlyList<long> own)
    {
        if (Checkpoints.Latest() is not { } latest)
            return null;
        long[] later = [.. own.Where(step => string.CompareOrdinal(CheckpointStore.NameOf(step), System.IO.Path.GetFileName(latest)) > 0)];
        return later.Length switch
        {
            0 => latest,
            1 => System.IO.Path.Combine(CheckpointFolder, CheckpointStore.NameOf(later[0])),
            _ => throw new UserException(
                $"{CheckpointFolder} has {later.Length} checkpoints later than the one that {CheckpointStore.LatestFile} names, " +
                $"{System.IO.Path.GetFileName(latest)}, which going on from there would write over: remove them, or branch off with --resume {latest} and another --output."),
        };
    }
}
