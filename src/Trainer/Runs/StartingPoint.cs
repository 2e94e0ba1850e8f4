using LongNet.Trainer.Checkpoints;

namespace LongNet.Trainer.Runs;

/// <summary>A whole checkpoint that a run starts from.</summary>
/// <param name="Checkpoint">Its folder.</param>
/// <param name="Manifest">Verified.</param>
/// <param name="Notes">What a person should know of how it was found.</param>
internal sealed record StartingPoint(string Checkpoint, CheckpointManifest Manifest, IReadOnlyList<string> Notes);
