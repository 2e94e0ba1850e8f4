using LongNet.Core;
using LongNet.Trainer.Runs;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Checkpoints;

/// <summary>The checkpoints in a run's folder: which one a run starts from, and what earlier jobs left.</summary>
internal static class RunCheckpoints
{
    public static CheckpointStore Checkpoints(this RunDirectory run) => new(run.CheckpointFolder);

    /// <summary>
    /// Removes what an earlier job left that failed: flight records, and what is half written or half deleted among the
    /// checkpoints. The run must be locked.
    /// </summary>
    /// <returns>Whether there was anything.</returns>
    /// <exception cref="UserException">It cannot be removed.</exception>
    public static bool RemoveLeftovers(this RunDirectory run)
    {
        bool removedCheckpoints = run.Remove("Half a checkpoint of an earlier job", run.Checkpoints().RemoveLeftovers);
        bool removedRecords = run.DeleteFlightRecords();
        return removedCheckpoints || removedRecords;
    }

    /// <summary>
    /// Decides which checkpoint a run starts from, so that no run ever writes over another's, and verifies that it is
    /// complete. With auto, newer ones that are damaged are set aside: the run must be locked.
    /// </summary>
    /// <param name="run">The run that starts.</param>
    /// <param name="resume">none, auto, or the path of a checkpoint or of a run.</param>
    /// <returns>The checkpoint; null to start from the first step.</returns>
    /// <exception cref="UserException">There is a checkpoint that this run would write over, or no complete one where
    /// one is wanted.</exception>
    public static StartingPoint? FindStart(this RunDirectory run, string resume)
    {
        IReadOnlyList<long> steps = run.Checkpoints().Steps();
        if (resume == "auto")
            return steps.Count == 0 ? null : NewestComplete(run, steps);
        if (resume != "none")
            return Named(run, resume, steps);
        return steps.Count == 0
            ? null
            : throw new UserException(
                $"{run.Path} already has a checkpoint of step {steps[^1]}: add --resume auto to go on from "
                    + "it, or --output DIR to start another run."
            );
    }

    private static StartingPoint Named(RunDirectory run, string resume, IReadOnlyList<long> steps)
    {
        string checkpoint = CheckpointStore.Find(resume)
            ?? throw new UserException(
                $"--resume {resume}: there is no checkpoint. Give auto, none, a folder such as "
                    + "runs/NAME/checkpoints/step-00000100, or a run's folder."
            );
        CheckpointManifest manifest = CheckpointStore.Verify(checkpoint);
        bool isOwn = Path.GetFullPath(checkpoint)
            .StartsWith(Path.GetFullPath(run.CheckpointFolder) + Path.DirectorySeparatorChar, StringComparison.Ordinal);
        // Going back within a run would write over its later steps; branching off belongs into a folder of its own.
        return steps.Count == 0 || (isOwn && steps[^1] == manifest.Step)
            ? new StartingPoint(checkpoint, manifest, [])
            : throw new UserException(
                $"{run.Path} already has a checkpoint of step {steps[^1]}, which resuming from {checkpoint} (step "
                    + $"{manifest.Step}) would write over: "
                    + "choose another --output, or remove the later checkpoints."
            );
    }

    private static StartingPoint NewestComplete(RunDirectory run, IReadOnlyList<long> steps)
    {
        CheckpointStore store = run.Checkpoints();
        var damaged = new List<(long Step, DamagedCheckpointException Error)>();
        foreach (long step in steps.Reverse())
        {
            try
            {
                string checkpoint = store.PathOf(step);
                CheckpointManifest manifest = Verify(checkpoint, step);
                string[] notes = [.. damaged.Select(each => SetAside(store, each.Step, each.Error, checkpoint))];
                if (notes.Length > 0)
                    run.Remove("What LATEST or BEST named before", () =>
                    {
                        store.Repoint(FileOperations.Real);
                        return true;
                    });
                return new StartingPoint(checkpoint, manifest, notes);
            }
            catch (DamagedCheckpointException error)
            {
                damaged.Add((step, error));
            }
        }

        IEnumerable<string> problems = damaged.Select(each =>
            $"{CheckpointStore.NameOf(each.Step)}: {each.Error.File}: {each.Error.Problem}"
        );
        throw new UserException(
            $"No checkpoint in {run.CheckpointFolder} is whole: {string.Join("; ", problems)}. "
                + "Start from another run's with --resume PATH, or start anew with another --output."
        );
    }

    private static CheckpointManifest Verify(string checkpoint, long step)
    {
        CheckpointManifest manifest = CheckpointStore.Verify(checkpoint);
        return manifest.Step == step
            ? manifest
            : throw new DamagedCheckpointException(
                checkpoint,
                CheckpointManifest.FileName,
                $"it is of step {manifest.Step}"
            );
    }

    // Returns what a person should know of it.
    private static string SetAside(
        CheckpointStore store,
        long step,
        DamagedCheckpointException error,
        string replacement
    )
    {
        try
        {
            return $"warning: the checkpoint of step {step} is damaged ({error.File}: {error.Problem}) and "
                + $"now called {store.SetAside(step)}: going on from {Path.GetFileName(replacement)}";
        }
        catch (Exception refusal) when (DiskError.Is(refusal))
        {
            throw new UserException(
                $"The damaged checkpoint {store.PathOf(step)} cannot be set aside, and this run would "
                    + $"have to write it again: {refusal.Message}",
                refusal
            );
        }
    }
}
