using LongNet.Distributed.Collectives;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Reporting;
using LongNet.Trainer.Runs;

namespace LongNet.Trainer.Loop;

/// <summary>What a training run does at the events of its checkpoints.</summary>
internal sealed class RunCheckpointEvents : ICheckpointEvents
{
    /// <summary>This rank's number.</summary>
    public required int Rank { get; init; }

    public required RunDirectory Directory { get; init; }

    /// <summary>Null on ranks other than 0.</summary>
    public required RunLock? Lock { get; init; }

    /// <summary>Null on ranks other than 0.</summary>
    public required MetricsWriter? Metrics { get; init; }

    public required IRunReporter Reporter { get; init; }

    /// <summary>A failure on purpose; null for none.</summary>
    public required FaultInjection? Fault { get; init; }

    public void FileWritten(long step) => Fault?.At(FaultPoint.Checkpoint, Rank, step);

    public void Committing()
    {
        // A commit would add this checkpoint to the other run's, and remove expired ones of it.
        if (Lock?.CheckTakenOver() == true)
            throw TakenOver(Directory, Lock);
        // A checkpoint is never ahead of the metrics on the disk.
        Metrics?.Sync();
    }

    public void Saved(long step, CommittedCheckpoint checkpoint) => Reporter.CheckpointSaved(step, checkpoint);

    public void Failed(string failure, bool trainingContinues) => Reporter.CheckpointFailed(failure, trainingContinues);

    /// <summary>How a run ends whose directory another run has taken over: it saves nothing more.</summary>
    /// <param name="runLock">Null on ranks other than 0.</param>
    public static AgreedUserException TakenOver(RunDirectory directory, RunLock? runLock) =>
        new(
            $"The run directory {directory.Path} was taken over by {runLock?.TakenOverBy ?? "another run"}, "
                + "because this run stood still for some time (suspended, or its "
                + "disk out of reach) and looked dead: the other run goes on from the last checkpoint, and "
                + "this one ends without saving."
        );
}
