using LongNet.Core.Cuda;
using LongNet.Core.Native;
using LongNet.Core.Sequences;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Rotates queries and keys by their absolute positions, so that a logit depends on their distance: RoPE (Su et al.,
/// arXiv:2104.09864), or xPos, which lets attention decay with distance too (Sun et al., arXiv:2212.10554, section
/// 2.2).
/// </summary>
/// <remarks>
/// <para>Neighbouring channels (2i, 2i + 1) form a pair with angle n · 10000^(−2i/d); xPos scales it by ζᵢ^(±n/512),
/// where ζᵢ = (2i/d + 0.4) / 1.4, plus for queries, minus for keys.</para>
/// <para>Only the difference of positions enters a logit, so xPos's exponents count from the middle of the block that
/// holds the row, where blocks are the shortest that no segment straddles. They grow with the segment length, not with
/// the sequence.</para>
/// <para>Angles are computed in float64, which keeps them right to 1e-6 at positions beyond 10⁹.</para>
/// </remarks>
public sealed class RotaryPositions : IDisposable
{
    private const double ScaleBase = 512,
        Gamma = 0.4,
        RotaryBase = 10000;

    private readonly long headDim;
    private readonly SegmentSchedule? decaySchedule;
    private (SequenceShard Shard, ScalarType Type, string Device)? cached;
    private Tensor? queryFactors,
        keyFactors;

    private RotaryPositions(string name, long headDim, SegmentSchedule? decaySchedule)
    {
        if (headDim % 2 != 0)
            throw new UserException(
                $"{name} rotates pairs of channels, but a head has {headDim}: choose d_model and heads so "
                    + "that d_model / heads is even."
            );
        this.headDim = headDim;
        this.decaySchedule = decaySchedule;
    }

    /// <summary>Whether attention decays with distance (xPos).</summary>
    internal bool Decays => decaySchedule is not null;

    /// <summary>Rotation without decay.</summary>
    /// <param name="headDim">Channels per head; even.</param>
    /// <exception cref="UserException">The number of channels is odd.</exception>
    public static RotaryPositions Rope(long headDim) => new("RoPE", headDim, null);

    /// <summary>Rotation and decay.</summary>
    /// <param name="headDim">Channels per head; even.</param>
    /// <param name="schedule">The branches in which the rotated queries and keys meet.</param>
    /// <exception cref="UserException">The number of channels is odd.</exception>
    public static RotaryPositions XPos(long headDim, SegmentSchedule schedule)
    {
        ArgumentNullException.ThrowIfNull(schedule);
        return new RotaryPositions("xPos", headDim, schedule);
    }

    /// <summary>The rotation of an encoding; null where it does not rotate.</summary>
    internal static RotaryPositions? Create(PositionEncoding encoding, long headDim, SegmentSchedule schedule) =>
        encoding switch
        {
            PositionEncoding.XPos => XPos(headDim, schedule),
            PositionEncoding.Rope => Rope(headDim),
            _ => null,
        };

    /// <summary>
    /// Refuses a schedule whose decay does not fit the type. Pure, so it can be asked before anything starts.
    /// </summary>
    /// <param name="schedule">The branches.</param>
    /// <param name="sequenceLength">Tokens of the complete sequence.</param>
    /// <param name="type">Compute type.</param>
    /// <exception cref="UserException">A scale would overflow; says the longest block that works.</exception>
    public static void ValidateDecay(SegmentSchedule schedule, long sequenceLength, ScalarType type)
    {
        ArgumentNullException.ThrowIfNull(schedule);
        _ = DecayBlock(schedule.CommonBlock(sequenceLength), type);
    }

    /// <summary>xPos's ζ of a pair of channels: the decay over 512 rows.</summary>
    internal static double DecayOfPair(long pair, long headDim) => (2.0 * pair / headDim + Gamma) / (1 + Gamma);

    /// <summary>Rotates queries and keys, and scales them where they decay. Differentiable.</summary>
    /// <param name="q">[batch, length, heads, headDim]. Not disposed.</param>
    /// <param name="k">[batch, length, heads, headDim]. Not disposed.</param>
    /// <param name="shard">The positions of all tokens that this rank holds.</param>
    /// <param name="first">Index of the first given token among them, where not all are given.</param>
    /// <returns>Rotated tensors of the inputs' shape and dtype; computed in float32, or float64 for float64.</returns>
    /// <exception cref="UserException">The schedule's blocks are so long that a scale would overflow the
    /// dtype.</exception>
    public (Tensor Q, Tensor K) Rotate(Tensor q, Tensor k, SequenceShard shard, long first = 0)
    {
        ArgumentNullException.ThrowIfNull(q);
        ArgumentNullException.ThrowIfNull(k);
        EnsureFactors(shard, q.dtype, q.device);
        return (Multiply(q, queryFactors!, first), Multiply(k, keyFactors!, first));
    }

    public void Dispose()
    {
        queryFactors?.Dispose();
        keyFactors?.Dispose();
        (queryFactors, keyFactors, cached) = (null, null, null);
    }

    // ln of the largest scale a rotated element may carry. The type's own exponents end at ±87 (float16: ±10), and
    // gradients, which the mean over millions of tokens makes as small as 1e-10, need some of them.
    private static double LargestLogScale(ScalarType type) => type == ScalarType.Float16 ? 4 : 50;

    private static Tensor Multiply(Tensor tensor, Tensor factors, long first)
    {
        using var scope = NewDisposeScope();
        long[] shape = tensor.shape;
        factors = factors.narrow(0, first, shape[1]);
        if (KernelModule.For(tensor) is { } kernels)
            return FusedRotation.Apply(kernels, tensor, factors).MoveToOuterDisposeScope();
        Tensor pairs = tensor
            .to(LogSumExpMerge.AccumulationType(tensor.dtype))
            .reshape(shape[0], shape[1], shape[2], shape[3] / 2, 2);
        return pairs
            .view_as_complex()
            .mul(factors)
            .view_as_real()
            .reshape(shape)
            .to(tensor.dtype)
            .MoveToOuterDisposeScope();
    }

    // Every layer and step of a run asks for the same factors.
    private void EnsureFactors(SequenceShard shard, ScalarType type, Device device)
    {
        if (cached == (shard, type, device.ToString()))
            return;
        Dispose();
        // The first exponentials of a process that did not start with it.
        MklVectorMath.Start();
        long block = decaySchedule is null ? 0 : DecayBlock(decaySchedule.CommonBlock(shard.TotalLength), type);

        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        long pairs = headDim / 2;
        var logScales = new double[pairs];
        var frequencies = new double[pairs];
        for (int i = 0; i < pairs; i++)
        {
            frequencies[i] = Math.Pow(RotaryBase, -2.0 * i / headDim);
            logScales[i] = Math.Log(DecayOfPair(i, headDim)) / ScaleBase;
        }

        double[] positions = [.. shard.Positions().Select(position => (double)position)];
        double[] distances =
        [
            .. shard.Positions().Select(position => decaySchedule is null ? 0.0 : position % block - block / 2),
        ];

        Tensor angles = outer(OnCpu(positions), OnCpu(frequencies));
        Tensor exponents = outer(OnCpu(distances), OnCpu(logScales));
        ScalarType complexType =
            LogSumExpMerge.AccumulationType(type) == ScalarType.Float64
                ? ScalarType.ComplexFloat64
                : ScalarType.ComplexFloat32;
        queryFactors = Factors(exponents.exp());
        keyFactors = Factors(exponents.neg().exp());
        cached = (shard, type, device.ToString());

        static Tensor OnCpu(double[] values) => tensor(values, dtype: ScalarType.Float64, device: CPU);

        // [length, 1, headDim / 2]; outlives every scope, as the cache owns it.
        Tensor Factors(Tensor scale) =>
            polar(scale, angles).to(complexType).to(device).unsqueeze(1).DetachFromDisposeScope();
    }

    // The block itself, where every scale in it fits the type.
    private static long DecayBlock(long block, ScalarType type)
    {
        double logScale = block / 2 / ScaleBase * -Math.Log(Gamma / (1 + Gamma));
        double largest = LargestLogScale(type);
        if (logScale <= largest)
            return block;
        long longest = (long)(largest / -Math.Log(Gamma / (1 + Gamma)) * ScaleBase * 2);
        throw new UserException(
            $"xPos over blocks of {block} rows (the least common multiple of the segment lengths, or the "
                + "whole sequence) needs scales up to "
                + $"e^{logScale:0}, more than {type} holds; blocks of at most {longest} rows work: shorten the "
                + "longest segment or choose segment "
                + "lengths that divide it."
        );
    }
}
