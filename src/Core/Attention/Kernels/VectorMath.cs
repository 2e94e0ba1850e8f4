using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LongNet.Core.Attention.Kernels;

/// <summary>Sixteen floats at a time.</summary>
internal static unsafe class VectorMath
{
    public const int Lanes = 16;

    // Below this the result is 0 in float32. Clamping keeps the argument reduction within its range.
    private const float Underflow = -104;

    // ln 2 in two parts, the first with so few digits that its multiples are exact.
    private const float Log2E = 1.44269504f,
        Ln2High = 0.693359375f,
        Ln2Low = -2.12194440e-4f;

    /// <summary>eˣ for x ≤ 88, to two units in the last place; NaN stays NaN.</summary>
    /// <remarks>Cody and Waite's reduction to |r| ≤ ln 2 / 2 and the polynomial of the Cephes library's expf.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Exp(Vector512<float> x)
    {
        // Max returns its second operand where one is NaN, so a NaN in x survives.
        x = Avx512F.Max(Vector512.Create(Underflow), x);
        Vector512<float> power = Avx512F.RoundScale(x * Log2E, 0);
        Vector512<float> r = Avx512F.FusedMultiplyAddNegated(power, Vector512.Create(Ln2High), x);
        r = Avx512F.FusedMultiplyAddNegated(power, Vector512.Create(Ln2Low), r);
        Vector512<float> p = Vector512.Create(1.9875691500e-4f);
        p = Avx512F.FusedMultiplyAdd(p, r, Vector512.Create(1.3981999507e-3f));
        p = Avx512F.FusedMultiplyAdd(p, r, Vector512.Create(8.3334519073e-3f));
        p = Avx512F.FusedMultiplyAdd(p, r, Vector512.Create(4.1665795894e-2f));
        p = Avx512F.FusedMultiplyAdd(p, r, Vector512.Create(1.6666665459e-1f));
        p = Avx512F.FusedMultiplyAdd(p, r, Vector512.Create(5.0000001201e-1f));
        return Avx512F.Scale(Avx512F.FusedMultiplyAdd(p, r * r, r + Vector512<float>.One), power);
    }

    /// <summary>All ones in the first lanes, zero in the others.</summary>
    /// <param name="count">Lanes; 16 and more for all.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> FirstLanes(long count) =>
        Vector512.LessThan(Vector512<int>.Indices, Vector512.Create((int)Math.Min(count, Lanes))).AsSingle();

    /// <summary>target += addend, element by element.</summary>
    public static void Add(float* target, float* addend, long count)
    {
        long i = 0;
        for (; i + Lanes <= count; i += Lanes)
            (Vector512.Load(target + i) + Vector512.Load(addend + i)).Store(target + i);
        for (; i < count; i++)
            target[i] += addend[i];
    }

    /// <summary>target *= factor, element by element.</summary>
    public static void Multiply(float* target, float factor, long count)
    {
        Vector512<float> factors = Vector512.Create(factor);
        long i = 0;
        for (; i + Lanes <= count; i += Lanes)
            (Vector512.Load(target + i) * factors).Store(target + i);
        for (; i < count; i++)
            target[i] *= factor;
    }
}
