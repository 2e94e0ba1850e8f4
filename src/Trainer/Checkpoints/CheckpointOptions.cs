namespace LongNet.Trainer.Checkpoints;

/// <summary>How a run saves.</summary>
/// <param name="Asynchronous">Whether training continues while a checkpoint is written, from a copy in memory.</param>
/// <param name="Required">Whether one that cannot be written ends the run.</param>
/// <param name="Retention">Which older checkpoints are removed.</param>
internal sealed record CheckpointOptions(bool Asynchronous, bool Required, CheckpointRetention Retention);
