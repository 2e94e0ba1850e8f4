namespace LongNet.Trainer.Checkpoints;

/// <summary>A complete checkpoint that a run starts from.</summary>
/// <param name="Checkpoint">Its folder.</param>
/// <param name="Manifest">Verified.</param>
/// <param name="Notes">What a person should know of how it was found.</param>
internal sealed record StartingPoint(string Checkpoint, CheckpointManifest Manifest, IReadOnlyList<string> Notes);
