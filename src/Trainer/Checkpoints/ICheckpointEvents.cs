namespace LongNet.Trainer.Checkpoints;

/// <summary>What a <see cref="CheckpointSaver"/> reports while it saves. Each event does nothing unless implemented.
/// </summary>
internal interface ICheckpointEvents
{
    /// <summary>Ignores all events.</summary>
    static readonly ICheckpointEvents None = new NoEvents();

    /// <summary>
    /// A file of tensors is written. On every rank that writes, on another thread than the training loop's.
    /// </summary>
    /// <param name="step">The checkpoint's step.</param>
    void FileWritten(long step) { }

    /// <summary>
    /// All parts are written, and the checkpoint becomes complete after this returns: what must be on the disk before
    /// it is written here. On rank 0, on another thread than the training loop's.
    /// </summary>
    void Committing() { }

    /// <summary>A checkpoint is complete. On rank 0, in the training loop.</summary>
    void Saved(long step, CommittedCheckpoint checkpoint) { }

    /// <summary>A checkpoint could not be written. On rank 0, in the training loop.</summary>
    /// <param name="failure">What happened.</param>
    /// <param name="trainingContinues">Whether the run continues without it; false: the run has failed already.</param>
    void Failed(string failure, bool trainingContinues) { }

    private sealed class NoEvents : ICheckpointEvents;
}
