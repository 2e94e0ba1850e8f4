using LongNet.Trainer.Checkpoints;

namespace LongNet.Trainer.Tests.Checkpoints;

/// <summary>What a saver has reported.</summary>
internal sealed class RecordedEvents : ICheckpointEvents
{
    public List<CommittedCheckpoint> Checkpoints { get; } = [];

    public List<string> Failures { get; } = [];

    public IEnumerable<string> Warnings => Checkpoints.Select(saved => saved.Warning).OfType<string>();

    /// <summary>Whether training continued after the last failure.</summary>
    public bool? TrainingContinued { get; private set; }

    public void Saved(long step, CommittedCheckpoint checkpoint) => Checkpoints.Add(checkpoint);

    public void Failed(string failure, bool trainingContinues)
    {
        Failures.Add(failure);
        TrainingContinued = trainingContinues;
    }
}
