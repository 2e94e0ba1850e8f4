using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// The micro-kernel of all matrix products in <see cref="Avx512FlashKernel"/>: a tile of 12 rows and 32 columns, whose
/// sums stay in 24 of AVX-512's 32 vector registers, so that the multiply-add units do not wait for memory.
/// </summary>
internal static unsafe class RegisterTile
{
    public const int Rows = 12,
        Columns = 32;

    private const int Lanes = 16;

    /// <summary>C = A · B, or C + A · B.</summary>
    /// <param name="a">A, 12 × <paramref name="steps"/>.</param>
    /// <param name="aRow">Elements from one row of A to the next.</param>
    /// <param name="aStep">Elements from one column of A to the next; exchanging the two transposes A.</param>
    /// <param name="b">B, <paramref name="steps"/> × 32; columns are dense.</param>
    /// <param name="bStep">Elements from one row of B to the next.</param>
    /// <param name="c">C, 12 × 32; columns are dense.</param>
    /// <param name="cRow">Elements from one row of C to the next.</param>
    /// <param name="steps">Columns of A and rows of B: the number of terms of every sum.</param>
    /// <param name="add">Whether the products are added to what C holds.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Multiply(
        float* a,
        nint aRow,
        nint aStep,
        float* b,
        nint bStep,
        float* c,
        nint cRow,
        nint steps,
        bool add
    )
    {
        // Unrolled by hand: the compiler keeps locals in registers, but not the elements of an array.
        nint aRow2 = 2 * aRow;
        float* a3 = a + 3 * aRow,
            a6 = a + 6 * aRow,
            a9 = a + 9 * aRow;
        Vector512<float> c0x = default,
            c0y = default,
            c1x = default,
            c1y = default,
            c2x = default,
            c2y = default,
            c3x = default,
            c3y = default;
        Vector512<float> c4x = default,
            c4y = default,
            c5x = default,
            c5y = default,
            c6x = default,
            c6y = default,
            c7x = default,
            c7y = default;
        Vector512<float> c8x = default,
            c8y = default,
            c9x = default,
            c9y = default,
            c10x = default,
            c10y = default,
            c11x = default,
            c11y = default;
        for (nint step = 0; step < steps; step++)
        {
            Vector512<float> bx = Vector512.Load(b),
                by = Vector512.Load(b + Lanes);
            Vector512<float> a0v = Vector512.Create(a[0]);
            c0x = Avx512F.FusedMultiplyAdd(a0v, bx, c0x);
            c0y = Avx512F.FusedMultiplyAdd(a0v, by, c0y);
            Vector512<float> a1v = Vector512.Create(a[aRow]);
            c1x = Avx512F.FusedMultiplyAdd(a1v, bx, c1x);
            c1y = Avx512F.FusedMultiplyAdd(a1v, by, c1y);
            Vector512<float> a2v = Vector512.Create(a[aRow2]);
            c2x = Avx512F.FusedMultiplyAdd(a2v, bx, c2x);
            c2y = Avx512F.FusedMultiplyAdd(a2v, by, c2y);
            Vector512<float> a3v = Vector512.Create(a3[0]);
            c3x = Avx512F.FusedMultiplyAdd(a3v, bx, c3x);
            c3y = Avx512F.FusedMultiplyAdd(a3v, by, c3y);
            Vector512<float> a4v = Vector512.Create(a3[aRow]);
            c4x = Avx512F.FusedMultiplyAdd(a4v, bx, c4x);
            c4y = Avx512F.FusedMultiplyAdd(a4v, by, c4y);
            Vector512<float> a5v = Vector512.Create(a3[aRow2]);
            c5x = Avx512F.FusedMultiplyAdd(a5v, bx, c5x);
            c5y = Avx512F.FusedMultiplyAdd(a5v, by, c5y);
            Vector512<float> a6v = Vector512.Create(a6[0]);
            c6x = Avx512F.FusedMultiplyAdd(a6v, bx, c6x);
            c6y = Avx512F.FusedMultiplyAdd(a6v, by, c6y);
            Vector512<float> a7v = Vector512.Create(a6[aRow]);
            c7x = Avx512F.FusedMultiplyAdd(a7v, bx, c7x);
            c7y = Avx512F.FusedMultiplyAdd(a7v, by, c7y);
            Vector512<float> a8v = Vector512.Create(a6[aRow2]);
            c8x = Avx512F.FusedMultiplyAdd(a8v, bx, c8x);
            c8y = Avx512F.FusedMultiplyAdd(a8v, by, c8y);
            Vector512<float> a9v = Vector512.Create(a9[0]);
            c9x = Avx512F.FusedMultiplyAdd(a9v, bx, c9x);
            c9y = Avx512F.FusedMultiplyAdd(a9v, by, c9y);
            Vector512<float> a10v = Vector512.Create(a9[aRow]);
            c10x = Avx512F.FusedMultiplyAdd(a10v, bx, c10x);
            c10y = Avx512F.FusedMultiplyAdd(a10v, by, c10y);
            Vector512<float> a11v = Vector512.Create(a9[aRow2]);
            c11x = Avx512F.FusedMultiplyAdd(a11v, bx, c11x);
            c11y = Avx512F.FusedMultiplyAdd(a11v, by, c11y);
            a += aStep;
            a3 += aStep;
            a6 += aStep;
            a9 += aStep;
            b += bStep;
        }

        Store(c + 0 * cRow, c0x, c0y, add);
        Store(c + 1 * cRow, c1x, c1y, add);
        Store(c + 2 * cRow, c2x, c2y, add);
        Store(c + 3 * cRow, c3x, c3y, add);
        Store(c + 4 * cRow, c4x, c4y, add);
        Store(c + 5 * cRow, c5x, c5y, add);
        Store(c + 6 * cRow, c6x, c6y, add);
        Store(c + 7 * cRow, c7x, c7y, add);
        Store(c + 8 * cRow, c8x, c8y, add);
        Store(c + 9 * cRow, c9x, c9y, add);
        Store(c + 10 * cRow, c10x, c10y, add);
        Store(c + 11 * cRow, c11x, c11y, add);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(float* c, Vector512<float> x, Vector512<float> y, bool add)
    {
        if (add)
        {
            x += Vector512.Load(c);
            y += Vector512.Load(c + Lanes);
        }

        x.Store(c);
        y.Store(c + Lanes);
    }
}
