using static TorchSharp.torch;

namespace LongNet.Core.Model;

/// <summary>How a model computes. No option changes the result, except by rounding.</summary>
public sealed record ModelExecution
{
    /// <summary>
    /// Type of activations and matrix products: float32, float64 where the parameters are, bfloat16 or float16.
    /// Parameters, their gradients, normalizations, softmax statistics and the loss stay as precise as the parameters.
    /// </summary>
    public ScalarType ComputeType { get; init; } = ScalarType.Float32;

    /// <summary>The intermediate results that backward computes again.</summary>
    public Recompute Recompute { get; init; } = Recompute.None;

    /// <summary>
    /// Rows of all sequences that a recomputed block works on at once, outside attention; null: as many as fit a
    /// cache-friendly tile.
    /// </summary>
    public long? TileRows { get; init; }

    /// <summary>Folder of the file in which recomputed blocks keep their inputs and results for backward; null: in
    /// memory.</summary>
    public string? OffloadFolder { get; init; }

    /// <summary>Rows of all sequences whose logits exist at once; null: as many as take 256 MB.</summary>
    public long? LossRows { get; init; }
}
