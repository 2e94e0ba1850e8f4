namespace LongNet.Core.Attention;

/// <summary>
/// One branch of dilated attention: the sequence is cut into segments, and of each segment every dilation-th row is
/// kept (section 2.2 of arXiv:2307.02486).
/// </summary>
/// <param name="SegmentLength">Rows per segment, w in the paper.</param>
/// <param name="Dilation">Distance between kept rows, r in the paper.</param>
public readonly record struct Branch(long SegmentLength, long Dilation)
{
    public override string ToString() => $"(w = {SegmentLength}, r = {Dilation})";
}
