using LongNet.Core.Attention;
using static TorchSharp.torch;

namespace LongNet.TestKit;

/// <summary>
/// Dilated attention as one dense attention: the pair (i, j) has logit S_ij + log(count_ij), where count_ij is the number
/// of branches whose kept set of the head holds both rows. Right for forward and backward by construction, and slow.
/// </summary>
public static class AttentionOracle
{
    /// <param name="q">[batch, length, heads, headDim], float64.</param>
    /// <param name="k">Shaped like q.</param>
    /// <param name="v">Shaped like q.</param>
    /// <param name="options">Schedule, causality, head offsets; the gradient is always the exact one.</param>
    /// <returns>Mixed heads, shaped like q; differentiable.</returns>
    public static Tensor Attend(Tensor q, Tensor k, Tensor v, DilatedAttentionOptions options)
    {
        long length = q.shape[1], heads = q.shape[2], headDim = q.shape[3];
        Tensor count = Counts(options, heads, length);
        Tensor scores = einsum("bihd,bjhd->bhij", q, k).div(Math.Sqrt(headDim));
        // A row kept nowhere gets finite logits and a zero factor: softmax over nothing would be NaN.
        Tensor kept = count.sum(dim: -1, keepdim: true).gt(0);
        Tensor logits = where(kept, scores + count.log(), zeros_like(scores));
        Tensor probabilities = logits.softmax(-1) * kept.to(float64);
        return einsum("bhij,bjhd->bihd", probabilities, v);
    }

    // [heads, length, length]
    private static Tensor Counts(DilatedAttentionOptions options, long heads, long length)
    {
        var counts = new double[heads * length * length];
        foreach (Branch branch in options.Schedule)
        {
            for (long head = 0; head < heads; head++)
            {
                long offset = options.HeadOffsets == HeadOffsets.Interleaved
                    ? head % branch.Dilation
                    : head / ((heads + branch.Dilation - 1) / branch.Dilation);
                for (long i = 0; i < length; i++)
                {
                    for (long j = 0; j < length; j++)
                    {
                        bool together = i / branch.SegmentLength == j / branch.SegmentLength
                            && Kept(i) && Kept(j) && (!options.Causal || j <= i);
                        if (together)
                            counts[(head * length + i) * length + j]++;
                    }
                }

                bool Kept(long row)
                {
                    long inSegment = row % branch.SegmentLength;
                    return inSegment >= offset && (inSegment - offset) % branch.Dilation == 0;
                }
            }
        }

        return tensor(counts, [heads, length, length]);
    }
}
