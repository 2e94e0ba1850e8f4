using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Dilated attention over all branches as one differentiable operation. Only q, k, v, the output, its log-sum-exp and
/// the keys and values gathered from other shards live from forward to backward.
/// </summary>
/// <remarks>Inputs: q, k, v, the plan, and the table of relative position biases where the plan has buckets.</remarks>
internal sealed class DilatedAttentionFunction : autograd.SingleTensorFunction<DilatedAttentionFunction>
{
    private const string PlanKey = "plan";
    private const int Table = 4;

    public override string Name => nameof(DilatedAttentionFunction);

    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        Tensor q = (Tensor)vars[0],
            k = (Tensor)vars[1],
            v = (Tensor)vars[2];
        var plan = (DilatedAttentionPlan)vars[3];
        Tensor? table = vars.Length > Table ? ((Tensor)vars[Table]).detach() : null;
        using var scope = NewDisposeScope();
        AttentionResult result = DilatedAttentionPass.Forward(plan, table, q, k, v);
        List<Tensor> saved = [q, k, v, result.Output.detach(), result.LogSumExp];
        if (table is not null)
            saved.Add(table);
        saved.AddRange(result.Gathered);
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
        List<Tensor> saved = ctx.get_saved_variables();
        Tensor? table = plan.Buckets is null ? null : saved[5];
        var result = new AttentionResult(saved[3], saved[4], saved[(table is null ? 5 : 6)..]);
        AttentionGradients all = DilatedAttentionPass.Backward(
            plan,
            table,
            saved[0],
            saved[1],
            saved[2],
            result,
            outputGradient.contiguous()
        );

        // Frees what was saved now, not when the node dies: the peak of a deep model is in its backward.
        ctx.Dispose();
        List<Tensor> gradients =
        [
            all.Q.to(saved[0].dtype).MoveToOuterDisposeScope(),
            all.K.to(saved[1].dtype).MoveToOuterDisposeScope(),
            all.V.to(saved[2].dtype).MoveToOuterDisposeScope(),
            null!,
        ];
        if (table is not null)
            gradients.Add(all.Table?.to(table.dtype).MoveToOuterDisposeScope()!);
        return gradients;
    }
}
