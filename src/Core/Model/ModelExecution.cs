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
    /// Rows of all sequences that a recomputed block works on at once, outside attention; null: on the CPU as many as
    /// stay in its caches, on a GPU as many as keep it busy.
    /// </summary>
    public long? TileRows { get; init; }

    /// <summary>Folder of the file in which recomputed blocks keep their inputs and results for backward; null: in
    /// memory.</summary>
    public string? OffloadFolder { get; init; }

    /// <summary>
    /// Whether recomputed blocks of a model on a GPU keep their inputs and results for backward in the host's memory.
    /// Without effect where <see cref="OffloadFolder"/> is given.
    /// </summary>
    public bool OffloadToHost { get; init; }

    /// <summary>Rows of all sequences whose logits exist at once; null: as many as take 256 MB on the
    /// CPU, or 2 GB on a GPU.</summary>
    public long? LossRows { get; init; }
}
