using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives.Transport;

/// <summary>
/// Combines the ranks' parts in this process's memory: in rank order, rounding once, with 16-bit types
/// accumulated in float32. The result does not depend on the backend nor on which rank computes it.
/// </summary>
internal static unsafe class LocalReduction
{
    // Elements per block: the accumulator stays in the first-level cache.
    private const int Block = 1024;

    /// <param name="parts">Address of every rank's part, in rank order.</param>
    /// <param name="destinationAddress">Address of the result; may be one of the parts.</param>
    /// <param name="count">Elements of each part.</param>
    public static void Run(
        ScalarType dtype,
        ReduceOperation operation,
        ReadOnlySpan<nint> parts,
        nint destinationAddress,
        long count
    )
    {
        byte* destination = (byte*)destinationAddress;
        switch (dtype)
        {
            case ScalarType.Float64:
                Reduce(operation, parts, (double*)destination, count);
                break;
            case ScalarType.Float32:
                Reduce(operation, parts, (float*)destination, count);
                break;
            case ScalarType.Int64:
                Reduce(operation, parts, (long*)destination, count);
                break;
            // A bool is a byte of 0 or 1, of which Max is "any" and Min is "all".
            case ScalarType.Byte or ScalarType.Bool:
                Reduce(operation, parts, destination, count);
                break;
            case ScalarType.Float16:
                ReduceWide(operation, parts, (ushort*)destination, count, &WidenFloat16, &NarrowFloat16);
                break;
            case ScalarType.BFloat16:
                ReduceWide(operation, parts, (ushort*)destination, count, &WidenBFloat16, &NarrowBFloat16);
                break;
            default:
                throw new ArgumentException($"No reduction of {dtype}.", nameof(dtype));
        }
    }

    private static void Reduce<T>(ReduceOperation operation, ReadOnlySpan<nint> parts, T* destination, long count)
        where T : unmanaged, INumber<T>
    {
        Span<T> block = stackalloc T[Block];
        for (long start = 0; start < count; start += Block)
        {
            Span<T> sum = block[..(int)Math.Min(Block, count - start)];
            new ReadOnlySpan<T>((T*)parts[0] + start, sum.Length).CopyTo(sum);
            for (int rank = 1; rank < parts.Length; rank++)
                Combine(operation, sum, new ReadOnlySpan<T>((T*)parts[rank] + start, sum.Length));
            if (operation == ReduceOperation.Average)
                Divide(sum, T.CreateChecked(parts.Length));
            sum.CopyTo(new Span<T>(destination + start, sum.Length));
        }
    }

    private static void ReduceWide(
        ReduceOperation operation,
        ReadOnlySpan<nint> parts,
        ushort* destination,
        long count,
        delegate* <ReadOnlySpan<ushort>, Span<float>, void> widen,
        delegate* <ReadOnlySpan<float>, Span<ushort>, void> narrow
    )
    {
        Span<float> block = stackalloc float[Block],
            other = stackalloc float[Block];
        for (long start = 0; start < count; start += Block)
        {
            int length = (int)Math.Min(Block, count - start);
            Span<float> sum = block[..length];
            widen(new ReadOnlySpan<ushort>((ushort*)parts[0] + start, length), sum);
            for (int rank = 1; rank < parts.Length; rank++)
            {
                widen(new ReadOnlySpan<ushort>((ushort*)parts[rank] + start, length), other[..length]);
                Combine(operation, sum, other[..length]);
            }

            if (operation == ReduceOperation.Average)
                Divide(sum, parts.Length);
            narrow(sum, new Span<ushort>(destination + start, length));
        }
    }

    private static void Combine<T>(ReduceOperation operation, Span<T> sum, ReadOnlySpan<T> other)
        where T : unmanaged, INumber<T>
    {
        Span<Vector<T>> sums = MemoryMarshal.Cast<T, Vector<T>>(sum);
        ReadOnlySpan<Vector<T>> others = MemoryMarshal.Cast<T, Vector<T>>(other);
        int tail = sums.Length * Vector<T>.Count;
        switch (operation)
        {
            case ReduceOperation.Max:
                for (int i = 0; i < sums.Length; i++)
                    sums[i] = Vector.Max(sums[i], others[i]);
                for (int i = tail; i < sum.Length; i++)
                    sum[i] = T.Max(sum[i], other[i]);
                break;
            case ReduceOperation.Min:
                for (int i = 0; i < sums.Length; i++)
                    sums[i] = Vector.Min(sums[i], others[i]);
                for (int i = tail; i < sum.Length; i++)
                    sum[i] = T.Min(sum[i], other[i]);
                break;
            default:
                for (int i = 0; i < sums.Length; i++)
                    sums[i] += others[i];
                for (int i = tail; i < sum.Length; i++)
                    sum[i] += other[i];
                break;
        }
    }

    private static void Divide<T>(Span<T> sum, T divisor)
        where T : unmanaged, INumber<T>
    {
        for (int i = 0; i < sum.Length; i++)
            sum[i] /= divisor;
    }

    private static void WidenFloat16(ReadOnlySpan<ushort> source, Span<float> target)
    {
        for (int i = 0; i < source.Length; i++)
            target[i] = (float)BitConverter.UInt16BitsToHalf(source[i]);
    }

    private static void NarrowFloat16(ReadOnlySpan<float> source, Span<ushort> target)
    {
        for (int i = 0; i < source.Length; i++)
            target[i] = BitConverter.HalfToUInt16Bits((Half)source[i]);
    }

    // bfloat16 is the upper half of a float32.
    private static void WidenBFloat16(ReadOnlySpan<ushort> source, Span<float> target)
    {
        Span<uint> bits = MemoryMarshal.Cast<float, uint>(target);
        int i = 0;
        for (; i <= source.Length - Vector<ushort>.Count; i += Vector<ushort>.Count)
        {
            Vector.Widen(new Vector<ushort>(source[i..]), out Vector<uint> low, out Vector<uint> high);
            (low << 16).CopyTo(bits[i..]);
            (high << 16).CopyTo(bits[(i + Vector<uint>.Count)..]);
        }

        for (; i < source.Length; i++)
            bits[i] = (uint)source[i] << 16;
    }

    private static void NarrowBFloat16(ReadOnlySpan<float> source, Span<ushort> target)
    {
        int i = 0;
        for (; i <= source.Length - Vector<ushort>.Count; i += Vector<ushort>.Count)
        {
            Vector<uint> low = RoundToUpperHalf(new Vector<float>(source[i..]));
            Vector<uint> high = RoundToUpperHalf(new Vector<float>(source[(i + Vector<float>.Count)..]));
            Vector.Narrow(low, high).CopyTo(target[i..]);
        }

        for (; i < source.Length; i++)
            target[i] = RoundToUpperHalf(source[i]);
    }

    // To nearest, ties to even; NaN keeps its sign and stays quiet, because the rounding below could carry it to
    // infinity.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector<uint> RoundToUpperHalf(Vector<float> value)
    {
        Vector<uint> bits = Vector.AsVectorUInt32(value);
        Vector<uint> rounded = (bits + new Vector<uint>(0x7FFF) + ((bits >>> 16) & Vector<uint>.One)) >>> 16;
        Vector<uint> number = Vector.AsVectorUInt32(Vector.Equals(value, value));
        return Vector.ConditionalSelect(number, rounded, (bits >>> 16) | new Vector<uint>(0x40));
    }

    private static ushort RoundToUpperHalf(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return (ushort)(float.IsNaN(value) ? (bits >> 16) | 0x40 : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }
}
