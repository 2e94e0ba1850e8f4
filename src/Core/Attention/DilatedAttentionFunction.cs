using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Dilated attention over all branches as one differentiable operation. Only the inputs, the output, its log-sum-exp
/// and the keys and values gathered from other ranks live from forward to backward.
/// </summary>
/// <remarks>Inputs: q, k, v, the plan, and the table of relative position biases where the plan has buckets.</remarks>
internal sealed class DilatedAttentionFunction : autograd.SingleTensorFunction<DilatedAttentionFunction>
{
    private const string PlanKey = "plan";
    private const int Table = 4;

    public override string Name => nameof(DilatedAttentionFunction);

    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        var plan = (DilatedAttentionPlan)vars[3];
        var inputs = new AttentionInputs(
            (Tensor)vars[0],
            (Tensor)vars[1],
            (Tensor)vars[2],
            vars.Length > Table ? ((Tensor)vars[Table]).detach() : null
        );
        using var scope = NewDisposeScope();
        AttentionResult result = DilatedAttentionPass.Forward(plan, inputs);
        List<Tensor> saved = SavedAttention.Pack(inputs, result with { Output = result.Output.detach() });
        foreach (Tensor tensor in saved)
            tensor.MoveToOuterDisposeScope();
        ctx.save_for_backward(saved);
        ctx.save_data(PlanKey, plan);
        return result.Output.MoveToOuterDisposeScope();
    }

    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output)
    {
        bool hasTable = ((DilatedAttentionPlan)ctx.get_data(PlanKey)).Buckets is not null;
        return BackwardPass.Guard(hasTable ? Table + 1 : Table, () => Backward(ctx, grad_output));
    }

    private static List<Tensor> Backward(autograd.AutogradContext ctx, Tensor outputGradient)
    {
        using var scope = NewDisposeScope();
        var plan = (DilatedAttentionPlan)ctx.get_data(PlanKey);
        var (inputs, result) = SavedAttention.Unpack(plan, ctx.get_saved_variables());
        AttentionGradients gradients = DilatedAttentionPass.Backward(plan, inputs, result, outputGradient.contiguous());

        // Frees what was saved now, not when the node dies: the peak of a deep model is in its backward.
        ctx.Dispose();
        List<Tensor> returned =
        [
            gradients.Q.to(inputs.Q.dtype).MoveToOuterDisposeScope(),
            gradients.K.to(inputs.K.dtype).MoveToOuterDisposeScope(),
            gradients.V.to(inputs.V.dtype).MoveToOuterDisposeScope(),
            null!,
        ];
        if (inputs.Table is not null)
            returned.Add(gradients.Table?.to(inputs.Table.dtype).MoveToOuterDisposeScope()!);
        return returned;
    }
}
