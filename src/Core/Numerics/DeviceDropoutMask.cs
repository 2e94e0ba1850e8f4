using static TorchSharp.torch;

namespace LongNet.Core.Numerics;

/// <summary>
/// The masks of <see cref="CounterDropout"/> as tensor operations, which any device computes by itself: the same bits,
/// without a mask that travels.
/// </summary>
internal static class DeviceDropoutMask
{
    private const int HalfOfBits = 32;

    /// <summary>The factors of all elements.</summary>
    /// <param name="shape">[batch, length, channels].</param>
    /// <param name="parameters">Of these sequences and positions.</param>
    /// <param name="device">Where the mask is made.</param>
    /// <returns>Float32, 0 or the factor that is kept. Owned by the caller.</returns>
    public static Tensor Of(long[] shape, CounterDropout.MaskParameters parameters, Device device)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        var draws = new Draws();
        long[] keys = [.. parameters.Sequences.Select(stream => unchecked((long)stream.Key))];
        // One draw serves two channels; its counter is the first of them.
        long[] counters = [.. Enumerable.Range(0, (int)((shape[2] + 1) / 2)).Select(pair => 2L * pair)];
        Tensor rows = draws.Of(Integers(keys).view(-1, 1), Integers([.. parameters.Shard.Positions()])).unsqueeze(-1);
        Tensor bits = draws.Of(rows, Integers(counters));
        return stack(
                [
                    Factors(bits.bitwise_and(Integer(uint.MaxValue)), parameters),
                    Factors(draws.ShiftRight(bits, HalfOfBits), parameters),
                ],
                dim: -1
            )
            .view(shape[0], shape[1], 2 * counters.Length)
            .narrow(2, 0, shape[2])
            .MoveToOuterDisposeScope();

        Tensor Integers(long[] values) => tensor(values, dtype: ScalarType.Int64, device: CPU).to(device);
    }

    private static Tensor Factors(Tensor halves, CounterDropout.MaskParameters parameters) =>
        halves
            .ge(Integer(parameters.Threshold))
            .to(ScalarType.Float32)
            .mul(tensor(parameters.Scale, dtype: ScalarType.Float32, device: CPU));

    // Without dimensions, so that it meets tensors of any device.
    private static Tensor Integer(long value) => tensor(value, dtype: ScalarType.Int64, device: CPU);

    /// <summary>RandomStream in int64: products and sums wrap as those of ulong do.</summary>
    private sealed class Draws
    {
        private readonly Tensor golden = Integer(unchecked((long)RandomStream.Golden)),
            firstFactor = Integer(unchecked((long)RandomStream.FirstFactor)),
            secondFactor = Integer(unchecked((long)RandomStream.SecondFactor)),
            minusOne = Integer(-1);

        /// <summary>RandomStream.Bits of every key and counter. Sums are differences, which take no Scalar.</summary>
        public Tensor Of(Tensor keys, Tensor counters) => Mix(keys.sub(minusOne.sub(counters).mul(golden)));

        /// <summary>The shift of an unsigned number.</summary>
        public Tensor ShiftRight(Tensor value, int bits) =>
            value.bitwise_right_shift(Integer(bits)).bitwise_and(Integer((1L << (64 - bits)) - 1));

        private Tensor Mix(Tensor value)
        {
            value = value.bitwise_xor(ShiftRight(value, 30)).mul(firstFactor);
            value = value.bitwise_xor(ShiftRight(value, 27)).mul(secondFactor);
            return value.bitwise_xor(ShiftRight(value, 31));
        }
    }
}
