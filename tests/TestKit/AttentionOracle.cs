using LongNet.Core.Attention;
using static TorchSharp.torch;

namespace LongNet.TestKit;

/// <summary>
/// Dilated attention as one dense attention: the pair (i, j) has logit S_ij + log(count_ij), where count_ij is the
/// number of branches whose kept set of the head holds both rows. Right for forward and backward by construction, and
/// slow.
/// </summary>
public static class AttentionOracle
{
    /// <param name="q">[batch, length, heads, headDim], float64.</param>
    /// <param name="k">Shaped like q.</param>
    /// <param name="v">Shaped like q.</param>
    /// <param name="options">Schedule, causality, head offsets; the gradient is always the exact one.</param>
    /// <param name="lengths">Rows of every sequence that are not padding; null where there is none.</param>
    /// <param name="table">Biases by bucket and head, [buckets, heads], float64; null for none.</param>
    /// <param name="buckets">The numbers that the buckets are made by.</param>
    /// <returns>Mixed heads, shaped like q; differentiable.</returns>
    public static Tensor Attend(
        Tensor q,
        Tensor k,
        Tensor v,
        AttentionPattern options,
        IReadOnlyList<long>? lengths = null,
        Tensor? table = null,
        RelativePositionBuckets? buckets = null
    )
    {
        long length = q.shape[1],
            heads = q.shape[2],
            headDim = q.shape[3];
        Tensor count = Counts(options, heads, length).unsqueeze(0);
        if (lengths is not null)
        {
            Tensor real = arange(length).unsqueeze(0).lt(tensor(lengths.ToArray()).unsqueeze(1)).to(float64);
            count = count * real.view(-1, 1, length, 1) * real.view(-1, 1, 1, length);
        }

        Tensor scores = einsum("bihd,bjhd->bhij", q, k).div(Math.Sqrt(headDim));
        if (table is not null)
        {
            long[] ofPairs = [.. from i in Range(length) from j in Range(length) select Bucket(i - j, buckets!)];
            scores = scores + table.index_select(0, tensor(ofPairs)).view(length, length, heads).permute(2, 0, 1);
        }

        // A row kept nowhere gets finite logits and a zero factor: softmax over nothing would be NaN.
        Tensor kept = count.sum(dim: -1, keepdim: true).gt(0);
        Tensor logits = where(kept, scores + count.log(), zeros_like(scores));
        Tensor probabilities = logits.softmax(-1) * kept.to(float64);
        return einsum("bhij,bjhd->bihd", probabilities, v);
    }

    /// <summary>
    /// Rotation by absolute position, channel by channel: pair (2i, 2i + 1) turns by n · 10000^(−2i/d) and grows by
    /// ζᵢ^(±n/512), ζᵢ = (2i/d + 0.4) / 1.4, where it decays.
    /// </summary>
    /// <param name="x">[batch, length, heads, headDim], float64.</param>
    /// <param name="growth">Sign of the exponent: 1 for queries and −1 for keys of xPos, 0 for RoPE.</param>
    public static Tensor Rotate(Tensor x, int growth)
    {
        long length = x.shape[1],
            headDim = x.shape[3];
        var channels = new List<Tensor>();
        for (long pair = 0; pair < headDim / 2; pair++)
        {
            double frequency = Math.Pow(10000, -2.0 * pair / headDim),
                zeta = (2.0 * pair / headDim + 0.4) / 1.4;
            Tensor Factor(Func<double, double> turn) =>
                tensor(Range(length).Select(n => turn(n * frequency) * Math.Pow(zeta, growth * n / 512.0)).ToArray())
                    .view(1, length, 1);
            Tensor a = x.select(3, 2 * pair),
                b = x.select(3, 2 * pair + 1);
            channels.Add(a * Factor(Math.Cos) - b * Factor(Math.Sin));
            channels.Add(a * Factor(Math.Sin) + b * Factor(Math.Cos));
        }

        return stack(channels, -1);
    }

    // As published with T5, number by number.
    private static long Bucket(long distance, RelativePositionBuckets buckets)
    {
        long count = buckets.Count,
            bucket = 0;
        if (buckets.Bidirectional)
        {
            count /= 2;
            if (distance < 0)
                bucket = count;
            distance = Math.Abs(distance);
        }

        distance = Math.Max(distance, 0);
        long exact = count / 2;
        if (distance < exact)
            return bucket + distance;
        float scale =
            MathF.Log((float)distance / exact) / (float)Math.Log((double)buckets.MaxDistance / exact) * (count - exact);
        return bucket + Math.Min(exact + (long)scale, count - 1);
    }

    private static IEnumerable<long> Range(long count)
    {
        for (long i = 0; i < count; i++)
            yield return i;
    }

    // [heads, length, length]
    private static Tensor Counts(AttentionPattern options, long heads, long length)
    {
        var counts = new double[heads * length * length];
        foreach (Branch branch in options.Schedule)
        {
            for (long head = 0; head < heads; head++)
            {
                long offset =
                    options.HeadOffsets == HeadOffsets.Interleaved
                        ? head % branch.Dilation
                        : head / ((heads + branch.Dilation - 1) / branch.Dilation);
                for (long i = 0; i < length; i++)
                {
                    for (long j = 0; j < length; j++)
                    {
                        bool together =
                            i / branch.SegmentLength == j / branch.SegmentLength
                            && Kept(i)
                            && Kept(j)
                            && (!options.Causal || j <= i);
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
