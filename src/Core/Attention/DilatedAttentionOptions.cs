namespace LongNet.Core.Attention;

/// <summary>What dilated attention computes, apart from where the sequence lives.</summary>
/// <param name="Schedule">The branches.</param>
/// <param name="Causal">Whether a query sees only keys at its own and earlier positions.</param>
/// <param name="HeadOffsets">Which rows of a segment each head keeps.</param>
/// <param name="MixingGradient">Whether the mixing weights have a gradient.</param>
public sealed record DilatedAttentionOptions(
    SegmentSchedule Schedule,
    bool Causal,
    HeadOffsets HeadOffsets = HeadOffsets.Interleaved,
    MixingGradient MixingGradient = MixingGradient.Exact
);
