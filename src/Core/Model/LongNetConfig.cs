using LongNet.Core.Attention;

namespace LongNet.Core.Model;

/// <summary>The shape of a LongNet language model.</summary>
public sealed record LongNetConfig
{
    /// <summary>Transformer blocks.</summary>
    public required long Layers { get; init; }

    /// <summary>Channels between blocks.</summary>
    public required long DModel { get; init; }

    /// <summary>Attention heads; divides <see cref="DModel"/>.</summary>
    public required long Heads { get; init; }

    /// <summary>Channels inside the feed-forward network.</summary>
    public required long FeedForward { get; init; }

    /// <summary>Token values, 0 … <see cref="Vocabulary"/> − 1.</summary>
    public required long Vocabulary { get; init; }

    /// <summary>The branches of every block's attention.</summary>
    public required SegmentSchedule Schedule { get; init; }

    public HeadOffsets HeadOffsets { get; init; } = HeadOffsets.Interleaved;

    public MixingGradient MixingGradient { get; init; } = MixingGradient.Exact;

    public PositionEncoding Positions { get; init; } = PositionEncoding.XPos;

    /// <summary>Buckets of a relative position bias that all blocks share; null for none.</summary>
    public RelativePositionBuckets? RelativePositionBias { get; init; }

    /// <summary>
    /// Probability of dropping an element of the embeddings, the attention outputs and the feed-forward outputs.
    /// </summary>
    public double Dropout { get; init; }

    /// <summary>Whether the output projection is the token embedding.</summary>
    public bool TieEmbeddings { get; init; } = true;

    /// <summary>
    /// Whether the merged heads and the feed-forward network's hidden channels are normalized before their last
    /// projection (sub-LN, arXiv:2210.06423).
    /// </summary>
    public bool SubLayerNorm { get; init; }
}
