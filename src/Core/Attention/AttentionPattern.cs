namespace LongNet.Core.Attention;

/// <summary>Which keys every query sees, and how the branches are mixed: what the attention itself computes.</summary>
/// <param name="Schedule">The branches.</param>
/// <param name="Causal">Whether a query sees only keys at its own and earlier positions.</param>
/// <param name="HeadOffsets">Which tokens of a segment each head keeps.</param>
/// <param name="MixingGradient">Whether the mixing weights have a gradient.</param>
public sealed record AttentionPattern(
    SegmentSchedule Schedule,
    bool Causal,
    HeadOffsets HeadOffsets = HeadOffsets.Interleaved,
    MixingGradient MixingGradient = MixingGradient.Exact
);
