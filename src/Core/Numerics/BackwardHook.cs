using static TorchSharp.torch;

namespace LongNet.Core.Numerics;

/// <summary>
/// Tells when backward has passed a point of the computation: everything that was computed from the tensor has its
/// gradients then. libtorch has hooks for this, TorchSharp has not; an identity with a backward of its own serves as
/// well.
/// </summary>
internal sealed class BackwardHook : autograd.SingleTensorFunction<BackwardHook>
{
    private const string ActionKey = "action";

    public override string Name => nameof(BackwardHook);

    /// <param name="input">Not disposed.</param>
    /// <param name="reached">Called during backward, on the thread that runs it, before anything goes further
    /// back.</param>
    /// <returns>A view of the input. Owned by the caller.</returns>
    public static Tensor Place(Tensor input, Action reached)
    {
        using var scope = NewDisposeScope();
        return apply(input, reached).MoveToOuterDisposeScope();
    }

    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        ctx.save_data(ActionKey, vars[1]);
        // Else a tensor of the input's size would wait for backward.
        ctx.set_materialize_grads(false);
        return ((Tensor)vars[0]).alias();
    }

    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output) =>
        BackwardPass.Guard(2, () =>
        {
            try
            {
                ((Action)ctx.get_data(ActionKey))();
            }
            catch (Exception failure)
            {
                // The gradient passes on all the same: functions further back must not be called without one.
                BackwardPass.Keep(failure);
            }

            return [grad_output.alias(), null!];
        });
}
