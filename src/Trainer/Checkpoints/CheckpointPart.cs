using LongNet.Core.Native;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>What one rank writes of a checkpoint.</summary>
/// <param name="Manifest">All but its files; alike on all ranks.</param>
/// <param name="Model">Parameters by name on rank 0, which writes them; empty on others. Not owned.</param>
/// <param name="Optimizer">This rank's shard of the optimizer state; empty where the rank writes none. Not
/// owned.</param>
/// <param name="Shard">The shard's number, below <see cref="CheckpointManifest.OptimizerShards"/>.</param>
internal sealed record CheckpointPart(
    CheckpointManifest Manifest,
    IReadOnlyList<(string Name, Tensor Value)> Model,
    IReadOnlyList<StateSlice> Optimizer,
    int Shard
)
{
    /// <summary>Whether this rank writes anything.</summary>
    public bool IsEmpty => Model.Count == 0 && Optimizer.Count == 0;

    /// <summary>Whether other ranks write parts too.</summary>
    public bool IsSharded => Manifest.OptimizerShards > 1;

    /// <summary>Size of this rank's tensors in bytes.</summary>
    public long Bytes =>
        Model.Sum(entry => TensorMemory.ByteLength(entry.Value))
        + Optimizer.Sum(slice => TensorMemory.ByteLength(slice.Value));
}
