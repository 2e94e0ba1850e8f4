using static TorchSharp.torch;

namespace LongNet.Core.Numerics;

/// <summary>
/// Autograd's hook on a tensor: an action that runs when backward has passed the tensor, so that everything computed
/// from it has its gradients. TorchSharp does not bind libtorch's hooks; an identity with its own backward does the
/// same.
/// </summary>
internal sealed class BackwardHook : autograd.SingleTensorFunction<BackwardHook>
{
    private const string ActionKey = "action";

    public override string Name => nameof(BackwardHook);

    /// <param name="input">Not disposed.</param>
    /// <param name="reached">Called during backward, on the thread that runs it, before backward continues towards the
    /// inputs.</param>
    /// <returns>A view of the input. Owned by the caller.</returns>
    public static Tensor Place(Tensor input, Action reached)
    {
        using var scope = NewDisposeScope();
        return apply(input, reached).MoveToOuterDisposeScope();
    }

    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        ctx.save_data(ActionKey, vars[1]);
        // Otherwise a tensor of the input's size would be kept for backward.
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
            catch (Exception error)
            {
                // Backward continues: the functions towards the inputs must not be called without a gradient.
                BackwardPass.Keep(error);
            }

            return [grad_output.alias(), null!];
        });
}
