using LongNet.Core;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Runs;

/// <summary>
/// A run's folder: config.yaml, metrics.jsonl, checkpoints, and flight records where a job came to grief.
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

    public CheckpointStore Checkpoints => new(CheckpointFolder);

    /// <summary>Makes the folder and keeps other runs out of it, until what is returned is disposed.</summary>
    /// <exception cref="UserException">Another run is at work there, or the folder cannot be written.</exception>
    public RunLock AcquireLock() => RunLock.Acquire(Path);

    /// <summary>Removes flight records, so that those found later are of one job.</summary>
    /// <returns>Whether there were any.</returns>
    /// <exception cref="UserException">They cannot be removed.</exception>
    public bool DeleteFlightRecords() => Removing("The flight records of an earlier job", () =>
        {
            if (!Directory.Exists(FlightRecords))
                return false;
            Directory.Delete(FlightRecords, recursive: true);
            return true;
        });

    /// <summary>
    /// Removes what an earlier job left that came to grief: flight records, and what is half written or half deleted
    /// among the checkpoints.
    /// </summary>
    /// <exception cref="UserException">They cannot be removed.</exception>
    public bool RemoveLeftovers() =>
        Removing("Half a checkpoint of an earlier job", Checkpoints.RemoveLeftovers) | DeleteFlightRecords();

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
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
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
        RankConsensus.RunOnRoot(group, () => Probing(() => DurableFile.Write(probe, "")));
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

        void Probing(Action write)
        {
            try
            {
                write();
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                throw CannotWrite(Path, error);
            }
        }
    }

    /// <summary>
    /// Decides which checkpoint a run starts from, so that no run ever writes over another's, and sees that it is
    /// whole. With auto, newer ones that are damaged are set aside: the run must be held.
    /// </summary>
    /// <param name="resume">none, auto, or the path of a checkpoint or of a run.</param>
    /// <returns>The checkpoint; null to start anew.</returns>
    /// <exception cref="UserException">There is a checkpoint that this run would write over, or no whole one where one
    /// is wanted.</exception>
    public StartingPoint? FindStart(string resume)
    {
        IReadOnlyList<long> own = Checkpoints.Steps();
        if (resume == "auto")
            return own.Count == 0 ? null : NewestWhole(own);
        if (resume == "none")
        {
            return own.Count == 0
                ? null
                : throw new UserException(
                    $"{Path} already has a checkpoint of step {own[^1]}: add --resume auto to go on from "
                        + "it, or --output DIR to start another run."
                );
        }

        string checkpoint = CheckpointStore.Find(resume)
            ?? throw new UserException(
                $"--resume {resume}: there is no checkpoint. Give auto, none, a folder such as "
                    + "runs/NAME/checkpoints/step-00000100, or a run's folder."
            );
        CheckpointManifest manifest = CheckpointStore.Verify(checkpoint);
        bool inside = System
            .IO.Path.GetFullPath(checkpoint)
            .StartsWith(
                System.IO.Path.GetFullPath(CheckpointFolder) + System.IO.Path.DirectorySeparatorChar,
                StringComparison.Ordinal
            );
        // Going back within a run would write over its later steps; branching off belongs into a folder of its own.
        return own.Count == 0 || (inside && own[^1] == manifest.Step)
            ? new StartingPoint(checkpoint, manifest, [])
            : throw new UserException(
                $"{Path} already has a checkpoint of step {own[^1]}, which resuming from {checkpoint} (step "
                    + $"{manifest.Step}) would write over: "
                    + "choose another --output, or remove the later checkpoints."
            );
    }

    internal static UserException CannotWrite(string path, Exception error) =>
        new($"The run directory {path} cannot be written: {error.Message} Choose another with --output.");

    private bool Removing(string what, Func<bool> remove)
    {
        try
        {
            return remove();
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new UserException($"{what} in {Path} cannot be removed: {error.Message}");
        }
    }

    private StartingPoint NewestWhole(IReadOnlyList<long> steps)
    {
        CheckpointStore store = Checkpoints;
        var damaged = new List<(long Step, DamagedCheckpointException Problem)>();
        foreach (long step in steps.Reverse())
        {
            try
            {
                string checkpoint = store.PathOf(step);
                CheckpointManifest manifest = CheckpointStore.Verify(checkpoint);
                if (manifest.Step != step)
                    throw new DamagedCheckpointException(
                        checkpoint,
                        CheckpointManifest.FileName,
                        $"it is of step {manifest.Step}"
                    );
                string[] notes = [.. damaged.Select(one => Aside(one.Step, one.Problem, checkpoint))];
                if (notes.Length > 0)
                    Removing("What LATEST or BEST named before", () => store.Repoint(FileOperations.Real));
                return new StartingPoint(checkpoint, manifest, notes);
            }
            catch (DamagedCheckpointException problem)
            {
                damaged.Add((step, problem));
            }
        }

        throw new UserException(
            $"No checkpoint in {CheckpointFolder} is whole: "
                + $"{string.Join("; ", damaged.Select(one => $"{CheckpointStore.NameOf(one.Step)}: {one.Problem.File}: {one.Problem.Problem}"))}. "
                + "Start from another run's with --resume PATH, or start anew with another --output."
        );

        string Aside(long step, DamagedCheckpointException problem, string taken)
        {
            try
            {
                return $"warning: the checkpoint of step {step} is damaged ({problem.File}: {problem.Problem}) and "
                    + $"now called {store.SetAside(step)}: going on from {System.IO.Path.GetFileName(taken)}";
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                throw new UserException(
                    $"The damaged checkpoint {store.PathOf(step)} cannot be set aside, and this run would "
                        + $"have to write it again: {error.Message}",
                    error
                );
            }
        }
    }
}
