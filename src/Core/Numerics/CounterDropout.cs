using System.Runtime.InteropServices;
using LongNet.Core.Cuda;
using LongNet.Core.Native;
using LongNet.Core.Sequences;
using static TorchSharp.torch;

namespace LongNet.Core.Numerics;

/// <summary>
/// The random choices of one training step, for the tokens that this process holds. A token's choices depend on its
/// sequence and its position, so they are the same however the batch and the sequence are sharded.
/// </summary>
/// <param name="Stream">Stream of the step, e.g. derived from (seed, step).</param>
/// <param name="Sequences">Identity of every sequence of the batch, e.g. its place in the global batch.</param>
/// <param name="Shard">The positions of the tokens that the process holds of each sequence.</param>
public sealed record DropoutContext(RandomStream Stream, IReadOnlyList<long> Sequences, SequenceShard Shard)
{
    /// <summary>The stream of every sequence for one use.</summary>
    /// <param name="site">Names the use.</param>
    internal RandomStream[] SequenceStreams(string site)
    {
        RandomStream stream = Stream.Derive(site);
        return [.. Sequences.Select(sequence => stream.Derive(sequence))];
    }

    /// <summary>Choices that TorchSharp's generator decides, for what has to make them twice.</summary>
    /// <param name="batch">Sequences.</param>
    /// <param name="length">Tokens of each.</param>
    internal static DropoutContext Drawn(long batch, long length)
    {
        using Tensor drawn = randint(long.MaxValue, [1], dtype: ScalarType.Int64, device: CPU);
        return new DropoutContext(
            new RandomStream(0).Derive(drawn.item<long>()),
            [.. Enumerable.Range(0, (int)batch).Select(sequence => (long)sequence)],
            SequenceShard.Complete(length)
        );
    }
}

/// <summary>Inverted dropout with counter-based masks.</summary>
internal static class CounterDropout
{
    /// <summary>Zeroes each element with the given probability and scales the rest to keep the mean.</summary>
    /// <param name="input">[batch, length, channels]. Not disposed.</param>
    /// <param name="probability">0 ≤ p &lt; 1.</param>
    /// <param name="context">Where the tokens lie; null draws from TorchSharp's global generator instead.</param>
    /// <param name="site">Names this use, so that no two share a mask.</param>
    /// <returns>Shaped like the input; the input itself for p = 0. Differentiable.</returns>
    public static Tensor Apply(Tensor input, double probability, DropoutContext? context, string site)
    {
        ArgumentNullException.ThrowIfNull(input);
        if (probability == 0)
            return input;
        if (context is null)
            return nn.functional.dropout(input, probability, training: true);
        MaskParameters parameters = MaskParameters.Of(probability, context, site);
        if (KernelModule.For(input) is { } kernels)
            return FusedDropout.Apply(kernels, input, parameters);
        using var scope = NewDisposeScope();
        Tensor mask =
            input.device_type == TorchSharp.DeviceType.CPU
                ? Mask(input.shape, probability, context, site)
                : DeviceDropoutMask.Of(input.shape, parameters, input.device);
        return input.mul(mask.to(input.dtype)).MoveToOuterDisposeScope();
    }

    /// <summary>What decides the mask of one use.</summary>
    /// <param name="Sequences">The stream of each sequence of the batch.</param>
    /// <param name="Shard">The positions of its tokens.</param>
    /// <param name="Threshold">An element whose 32 bits are below it is dropped.</param>
    /// <param name="Scale">The factor of all others, 1 / (1 − p).</param>
    internal sealed record MaskParameters(
        IReadOnlyList<RandomStream> Sequences,
        SequenceShard Shard,
        uint Threshold,
        float Scale
    )
    {
        public static MaskParameters Of(double probability, DropoutContext context, string site) =>
            new(
                context.SequenceStreams(site),
                context.Shard,
                (uint)Math.Min(probability * 4294967296.0, uint.MaxValue),
                (float)(1 / (1 - probability))
            );
    }

    /// <summary>The factors themselves: 0 or 1 / (1 − p), float32 on the CPU. Owned by the caller.</summary>
    /// <param name="shape">[batch, length, channels].</param>
    /// <param name="probability">0 ≤ p &lt; 1.</param>
    /// <param name="context">As many sequences as the batch has, and a shard of the same length.</param>
    /// <param name="site">Names this use.</param>
    public static Tensor Mask(long[] shape, double probability, DropoutContext context, string site)
    {
        ArgumentNullException.ThrowIfNull(shape);
        ArgumentNullException.ThrowIfNull(context);
        CheckShape(shape, context.Sequences.Count, context.Shard);
        long length = shape[1];
        int channels = checked((int)shape[2]);
        MaskParameters parameters = MaskParameters.Of(probability, context, site);
        Tensor mask = empty(shape, dtype: ScalarType.Float32, device: CPU);
        nint address = TensorMemory.Address(mask);
        // Each row has its own stream, so the threads that fill the mask do not change it.
        TensorThreads.ForEach(shape[0] * length, row =>
            FillRow(
                address,
                row * channels,
                channels,
                parameters.Sequences[(int)(row / length)].Derive(context.Shard.PositionOf(row % length)),
                parameters.Threshold,
                parameters.Scale
            )
        );
        GC.KeepAlive(mask);
        return mask;
    }

    /// <summary>Refuses a shape that is not that of the tokens whose mask is asked for.</summary>
    internal static void CheckShape(long[] shape, int sequences, SequenceShard shard)
    {
        if (shape.Length != 3 || shape[0] != sequences || shape[1] != shard.Length)
        {
            throw new ArgumentException(
                $"Dropout takes [batch, length, channels] with a batch of {sequences} and a length of {shard.Length}, "
                    + $"not [{string.Join(", ", shape)}]."
            );
        }
    }

    private static unsafe void FillRow(
        nint address,
        long first,
        int channels,
        RandomStream row,
        uint threshold,
        float kept
    )
    {
        Span<float> factors = MemoryMarshal.CreateSpan(ref *((float*)address + first), channels);
        for (int c = 0; c < channels; c += 2)
        {
            // One draw serves two elements, 32 bits each.
            ulong bits = row.Bits(c);
            factors[c] = (uint)bits < threshold ? 0 : kept;
            if (c + 1 < channels)
                factors[c + 1] = (uint)(bits >> 32) < threshold ? 0 : kept;
        }
    }
}
