namespace LongNet.Core.Attention;

/// <summary>What a <see cref="DilatedAttention"/> module computes, apart from where the sequence lives.</summary>
public sealed record DilatedAttentionOptions
{
    /// <summary>Channels of input and output; a multiple of <see cref="Heads"/>.</summary>
    public required long Channels { get; init; }

    /// <summary>Number of heads.</summary>
    public required long Heads { get; init; }

    /// <summary>The branches that are mixed; at least one.</summary>
    public required IReadOnlyList<Branch> Branches { get; init; }

    /// <summary>
    /// Whether a token sees only itself and earlier tokens. The default value is <see langword="false"/>.
    /// </summary>
    public bool Causal { get; init; }

    /// <summary>
    /// How queries and keys carry their positions. The default value is <see cref="PositionEncoding.None"/>.
    /// </summary>
    public PositionEncoding Positions { get; init; } = PositionEncoding.None;

    /// <summary>
    /// How distances share learned biases of the logits; null for no <see cref="Attention.RelativePositionBias"/>. The
    /// default value is null.
    /// </summary>
    public RelativePositionBuckets? RelativePositionBias { get; init; }

    /// <summary>
    /// Whether the merged heads are normalized before the output projection (sub-LN, arXiv:2210.06423). The default
    /// value is <see langword="false"/>.
    /// </summary>
    public bool SubLayerNorm { get; init; }

    /// <summary>
    /// Probability of dropping an element of the attention output in training mode; at least 0, below 1. The default
    /// value is 0.
    /// </summary>
    public double Dropout { get; init; }

    /// <summary>
    /// Which tokens of a segment each head keeps. The default value is
    /// <see cref="Attention.HeadOffsets.Interleaved"/>.
    /// </summary>
    public HeadOffsets HeadOffsets { get; init; } = HeadOffsets.Interleaved;

    /// <summary>
    /// Whether the mixing weights have a gradient. The default value is
    /// <see cref="Attention.MixingGradient.Exact"/>.
    /// </summary>
    public MixingGradient MixingGradient { get; init; } = MixingGradient.Exact;

    /// <summary>The part that the attention itself needs.</summary>
    /// <exception cref="UserException">There is no branch, or a number of one is below 1.</exception>
    internal AttentionPattern Pattern => new(new SegmentSchedule(Branches), Causal, HeadOffsets, MixingGradient);

    /// <summary>Channels per head.</summary>
    /// <exception cref="UserException">The heads do not divide the channels.</exception>
    internal long HeadDim =>
        Heads >= 1 && Channels >= 1 && Channels % Heads == 0
            ? Channels / Heads
            : throw new UserException(
                $"numHeads ({Heads}) must divide dModel ({Channels}): choose a head count that divides it."
            );
}
