using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using LongNet.Core.Cuda;
using LongNet.Core.Sequences;
using static TorchSharp.torch;

namespace LongNet.Core.Numerics;

/// <summary>
/// <see cref="CounterDropout"/> by one kernel that draws the masks itself, in forward and again in backward: the same
/// masks, without memory for them.
/// </summary>
internal sealed class FusedDropout : autograd.SingleTensorFunction<FusedDropout>
{
    private const string DropKey = "drop";

    public override string Name => nameof(FusedDropout);

    /// <summary>Zeroes each element with the given probability and scales the rest. Differentiable.</summary>
    /// <param name="kernels">Those of the device.</param>
    /// <param name="input">[sequences, length, channels]. Not disposed.</param>
    /// <param name="mask">Of as many sequences and tokens.</param>
    /// <returns>Shaped and typed like the input. Owned by the caller.</returns>
    public static Tensor Apply(KernelModule kernels, Tensor input, CounterDropout.MaskParameters mask)
    {
        CounterDropout.CheckShape(input.shape, mask.Sequences.Count, mask.Shard);
        var drop = new Drop(kernels, mask, [.. mask.Sequences.Select(stream => stream.Key)]);
        if (!input.requires_grad || !is_grad_enabled())
            return drop.Launch(input);
        using var scope = NewDisposeScope();
        return apply(input, drop).MoveToOuterDisposeScope();
    }

    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        using var noGradient = no_grad();
        ctx.save_data(DropKey, vars[1]);
        ctx.set_materialize_grads(false);
        return ((Drop)vars[1]).Launch((Tensor)vars[0]);
    }

    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output) =>
        BackwardPass.Guard(2, () =>
        {
            using var noGradient = no_grad();
            return [((Drop)ctx.get_data(DropKey)).Launch(grad_output), null!];
        });

    private sealed record Drop(KernelModule Kernels, CounterDropout.MaskParameters Mask, ulong[] Keys)
    {
        // A launch for each range of positions and for as many sequences as the parameters hold keys of.
        public Tensor Launch(Tensor input)
        {
            using var scope = NewDisposeScope();
            Tensor dense = input.contiguous();
            Tensor result = empty(input.shape, dtype: input.dtype, device: input.device);
            for (int first = 0; first < Keys.Length; first += KeyTable.Length)
            {
                ReadOnlySpan<ulong> keys = Keys.AsSpan(first, Math.Min(KeyTable.Length, Keys.Length - first));
                long row = 0;
                foreach (PositionRange range in Mask.Shard.Ranges)
                {
                    Launch(dense.narrow(0, first, keys.Length), result.narrow(0, first, keys.Length), keys, range, row);
                    row += range.Length;
                }
            }

            GC.KeepAlive(dense);
            return result.MoveToOuterDisposeScope();
        }

        private void Launch(Tensor input, Tensor result, ReadOnlySpan<ulong> keys, PositionRange range, long firstRow)
        {
            long channels = input.shape[2],
                groups = KernelModule.GroupsOf(channels),
                threads = keys.Length * range.Length * groups;
            if (threads == 0)
                return;
            var parameters = new DropoutParameters
            {
                Input = Kernels.AddressOf(input),
                Result = Kernels.AddressOf(result),
                Length = input.shape[1],
                FirstRow = firstRow,
                Position = range.First,
                Threads = checked((int)threads),
                Channels = (int)channels,
                Rows = new KernelDivisor(range.Length),
                Groups = new KernelDivisor(groups),
                Threshold = Mask.Threshold,
                Kept = Mask.Scale,
            };
            keys.CopyTo(parameters.Keys);
            bool aligned =
                KernelModule.IsAligned(parameters.Input, channels) && KernelModule.IsAligned(parameters.Result);
            Kernels.Launch(
                $"drop_{KernelModule.NameOf(input.dtype)}{(aligned ? "_aligned" : "")}",
                threads,
                ref parameters
            );
        }
    }

    /// <summary>What the kernels of dropout.cu take: Dropout there.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct DropoutParameters
    {
        public nint Input,
            Result;
        public long Length,
            FirstRow,
            Position;
        public int Threads,
            Channels;
        public KernelDivisor Rows,
            Groups;
        public uint Threshold;
        public float Kept;
        public KeyTable Keys;
    }

    [InlineArray(Length)]
    private struct KeyTable
    {
        public const int Length = 400;

        private ulong first;
    }
}
