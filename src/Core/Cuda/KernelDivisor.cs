using System.Numerics;
using System.Runtime.InteropServices;

namespace LongNet.Core.Cuda;

/// <summary>
/// A divisor of numbers from 0 to 2³¹ − 1 as the kernels take it: a product and a shift (Granlund and Montgomery, PLDI
/// 1994), because a GPU has no division of integers.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal readonly struct KernelDivisor
{
    private readonly int value;
    private readonly uint multiplier;
    private readonly int shift;

    /// <param name="value">1 … 2³¹ − 1.</param>
    public KernelDivisor(long value)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(value);
        this.value = checked((int)value);
        if (value == 1)
            return; // Multiplier 0 stands for it.
        int bits = BitOperations.Log2((uint)value - 1) + 1;
        multiplier = checked((uint)((1UL << (31 + bits)) / (uint)value + 1));
        shift = bits - 1;
    }

    /// <summary>The kernels' division.</summary>
    public int Divide(int dividend) =>
        multiplier == 0 ? dividend : (int)(((ulong)(uint)dividend * multiplier >> 32) >> shift);
}
