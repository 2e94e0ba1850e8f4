using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// How distances share biases: small distances have one each, larger ones share on a logarithmic scale up to
/// <paramref name="MaxDistance"/>, and all beyond it one (T5, section 2.1 of arXiv:1910.10683).
/// </summary>
/// <param name="Count">Buckets; at least 2, and even where bidirectional.</param>
/// <param name="MaxDistance">Distance from which on all share the last bucket.</param>
/// <param name="Bidirectional">
/// Whether keys after the query have buckets of their own, half of all. Otherwise they share that of distance 0.
/// </param>
public sealed record RelativePositionBuckets(long Count, long MaxDistance, bool Bidirectional)
{
    /// <summary>Buckets of T5 and of the authors' published code.</summary>
    public const long DefaultCount = 32;

    /// <summary>Distance from which on all share the last bucket in T5 and of the authors' published code.</summary>
    public const long DefaultMaxDistance = 128;

    /// <summary>The buckets of T5 and of the authors' published code.</summary>
    /// <param name="bidirectional">As <see cref="Bidirectional"/>.</param>
    public static RelativePositionBuckets Default(bool bidirectional) =>
        new(DefaultCount, DefaultMaxDistance, bidirectional);

    // Buckets of one direction, and how many of those stand for a single distance.
    private long PerDirection => Bidirectional ? Count / 2 : Count;

    private long Exact => PerDirection / 2;

    /// <summary>Refuses numbers that make no buckets.</summary>
    /// <exception cref="UserException">Too few buckets, an odd number of them for two directions, or too short a
    /// distance.</exception>
    public void Validate()
    {
        long least = Bidirectional ? 4 : 2;
        if (Count < least || (Bidirectional && Count % 2 != 0))
        {
            throw new UserException(
                $"Relative position bias has {Count} buckets, but needs "
                    + $"{(Bidirectional ? "an even number of at least 4, half for each direction" : "at least 2")}."
            );
        }

        if (MaxDistance <= Exact)
        {
            throw new UserException(
                $"Relative position bias tells distances apart up to {MaxDistance}, but its {Count} buckets "
                    + $"already give {Exact} distances one each: "
                    + $"choose a maximum distance above {Exact}, or fewer buckets."
            );
        }
    }

    /// <summary>The buckets of equally spaced distances.</summary>
    /// <param name="first">First distance: the query's row less the key's.</param>
    /// <param name="step">From each distance to the next.</param>
    /// <param name="count">How many.</param>
    /// <param name="device">Where they go.</param>
    /// <returns>[count], int64, 0 … <see cref="Count"/> − 1. Owned by the caller.</returns>
    public Tensor Of(long first, long step, long count, Device device)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        // Sums by sub: add makes a Scalar for its hidden factor, and the held one is no integer.
        var distances = new long[count];
        for (long i = 0; i < count; i++)
            distances[i] = first + i * step;
        Tensor distance = tensor(distances, dtype: ScalarType.Int64, device: CPU);
        Tensor size = Bidirectional ? distance.abs() : distance.maximum(Integer(0));

        // In float32, as everyone computes it: at a power of two a digit more would choose another bucket than the
        // weights were trained with.
        Tensor beyond = size.maximum(Integer(Exact))
            .to(float32)
            .div(Single(Exact))
            .log()
            .div(Single(Math.Log((double)MaxDistance / Exact)))
            .mul(Single(PerDirection - Exact))
            .to(int64);
        Tensor large = beyond.sub(Integer(-Exact)).minimum(Integer(PerDirection - 1));
        Tensor bucket = where(size.lt(Integer(Exact)), size, large);
        if (Bidirectional)
            bucket = bucket.sub(distance.lt(Integer(0)).to(int64).mul(Integer(-PerDirection)));
        return bucket.to(device).MoveToOuterDisposeScope();

        static Tensor Integer(long value) => tensor(value, dtype: ScalarType.Int64, device: CPU);
        static Tensor Single(double value) => tensor(value, dtype: ScalarType.Float32, device: CPU);
    }
}
