using System.Runtime.InteropServices;
using LongNet.Core.Cuda;
using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>Rotation of pairs of channels by one kernel, which reads and writes every element once.</summary>
internal sealed class FusedRotation : autograd.SingleTensorFunction<FusedRotation>
{
    private const string KernelsKey = "kernels";

    public override string Name => nameof(FusedRotation);

    /// <summary>Multiplies pairs of channels, taken as complex numbers, in float32. Differentiable.</summary>
    /// <param name="kernels">Those of the device.</param>
    /// <param name="tensor">[batch, length, heads, headDim]. Not disposed.</param>
    /// <param name="factors">[length, 1, headDim / 2], complex, contiguous. Not disposed.</param>
    /// <returns>Shaped and typed like the tensor. Owned by the caller.</returns>
    public static Tensor Apply(KernelModule kernels, Tensor tensor, Tensor factors)
    {
        if (!tensor.requires_grad || !is_grad_enabled())
            return Launch(kernels, tensor, factors, sign: 1);
        using var scope = NewDisposeScope();
        return apply(tensor, factors, kernels).MoveToOuterDisposeScope();
    }

    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        var kernels = (KernelModule)vars[2];
        Tensor factors = ((Tensor)vars[1]).alias();
        Tensor rotated = Launch(kernels, (Tensor)vars[0], factors, sign: 1);
        ctx.save_for_backward([factors.MoveToOuterDisposeScope()]);
        ctx.save_data(KernelsKey, kernels);
        ctx.set_materialize_grads(false);
        return rotated.MoveToOuterDisposeScope();
    }

    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output) =>
        BackwardPass.Guard(3, () =>
        {
            using var noGradient = no_grad();
            using var scope = NewDisposeScope();
            var kernels = (KernelModule)ctx.get_data(KernelsKey);
            Tensor factors = ctx.get_saved_variables()[0];
            Tensor gradient = Launch(kernels, grad_output, factors, sign: -1);
            ctx.Dispose();
            return [gradient.MoveToOuterDisposeScope(), null!, null!];
        });

    private static Tensor Launch(KernelModule kernels, Tensor tensor, Tensor factors, float sign)
    {
        using var scope = NewDisposeScope();
        long[] shape = tensor.shape;
        long channels = shape[3],
            groups = KernelModule.GroupsOf(channels),
            threads = shape[0] * shape[1] * shape[2] * groups;
        Tensor input = tensor.stride(-1) == 1 ? tensor : tensor.contiguous();
        Tensor result = empty(shape, dtype: tensor.dtype, device: tensor.device);
        long[] strides = input.stride();
        var parameters = new RotationParameters
        {
            Input = kernels.AddressOf(input),
            InputSequence = shape[0] == 1 ? 0 : strides[0],
            InputRow = shape[1] == 1 ? 0 : strides[1],
            InputHead = shape[2] == 1 ? 0 : strides[2],
            Result = kernels.AddressOf(result),
            Factors = kernels.AddressOf(factors),
            Threads = checked((int)threads),
            Channels = (int)channels,
            Length = new KernelDivisor(shape[1]),
            Heads = new KernelDivisor(shape[2]),
            Groups = new KernelDivisor(groups),
            Sign = sign,
        };
        bool aligned =
            KernelModule.IsAligned(
                parameters.Input,
                channels,
                parameters.InputSequence,
                parameters.InputRow,
                parameters.InputHead
            )
            && KernelModule.IsAligned(parameters.Result)
            && KernelModule.IsAligned(parameters.Factors);
        kernels.Launch(
            $"rotate_{KernelModule.NameOf(tensor.dtype)}{(aligned ? "_aligned" : "")}",
            threads,
            ref parameters
        );
        GC.KeepAlive(input);
        GC.KeepAlive(factors);
        return result.MoveToOuterDisposeScope();
    }

    /// <summary>What the kernels of rotation.cu take: Rotation there.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct RotationParameters
    {
        public nint Input;
        public long InputSequence,
            InputRow,
            InputHead;
        public nint Result,
            Factors;
        public int Threads,
            Channels;
        public KernelDivisor Length,
            Heads,
            Groups;
        public float Sign;
    }
}
