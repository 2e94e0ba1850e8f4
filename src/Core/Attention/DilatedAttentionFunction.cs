using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Dilated attention over all branches, forward and exact backward. Only q, k, v, the output, its log-sum-exp and the keys
/// and values gathered from other shards live from one to the other.
/// </summary>
internal sealed class DilatedAttentionFunction : autograd.SingleTensorFunction<DilatedAttentionFunction>
{
    private const string PlanKey = "plan";
    private const int Inputs = 4;

    public override string Name => nameof(DilatedAttentionFunction);

    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        Tensor q = (Tensor)vars[0], k = (Tensor)vars[1], v = (Tensor)vars[2];
        var plan = (DilatedAttentionPlan)vars[3];
        using var scope = NewDisposeScope();
        Tensor?[] gathered = [.. plan.Branches.Select(branch => branch.Shared?.Gather(k, v))];

        var mixture = new BranchMixture(q);
        for (int b = 0; b < plan.Branches.Count; b++)
            Attend(mixture, plan, b, q, k, v, gathered[b]);

        Tensor output = mixture.Output.to(q.dtype);
        List<Tensor> saved = [q, k, v, output.detach(), mixture.LogSumExp, .. gathered.OfType<Tensor>()];
        foreach (Tensor tensor in saved)
            tensor.MoveToOuterDisposeScope();
        ctx.save_for_backward(saved);
        ctx.save_data(PlanKey, plan);
        return output.MoveToOuterDisposeScope();
    }

    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output) =>
        BackwardPass.Guard(Inputs, () => Backward(ctx, grad_output));

    private static List<Tensor> Backward(autograd.AutogradContext ctx, Tensor outputGradient)
    {
        using var scope = NewDisposeScope();
        var plan = (DilatedAttentionPlan)ctx.get_data(PlanKey);
        List<Tensor> saved = ctx.get_saved_variables();
        var pass = new Gradients(plan, saved[0], saved[1], saved[2], saved[3], saved[4], outputGradient.contiguous());
        int nextGathered = 5;
        for (int b = 0; b < plan.Branches.Count; b++)
            pass.Add(b, plan.Branches[b].Shared is null ? null : saved[nextGathered++]);

        // Frees what was saved now, not when the node dies: the peak of a deep model is in its backward.
        ctx.Dispose();
        return
        [
            pass.Q.to(saved[0].dtype).MoveToOuterDisposeScope(),
            pass.K.to(saved[1].dtype).MoveToOuterDisposeScope(),
            pass.V.to(saved[2].dtype).MoveToOuterDisposeScope(),
            null!,
        ];
    }

    // Mixes one branch's attention into the mixture.
    private static void Attend(BranchMixture mixture, DilatedAttentionPlan plan, int b, Tensor q, Tensor k, Tensor v, Tensor? gathered)
    {
        BranchPlan branch = plan.Branches[b];
        foreach (RowBlock block in branch.LocalBlocks)
            AttendOwn(block);
        if (branch.Shared is not { } shared)
            return;
        foreach (var (group, block) in shared.OwnBlocks)
        {
            AttendOwn(block);
            if (shared.Visible(gathered!, group, plan.Causal) is var (keys, values))
                Mix(block, keys, values, causal: false);
        }

        void AttendOwn(RowBlock block) => Mix(block, block.View(k), block.View(v), plan.Causal);

        void Mix(RowBlock block, Tensor keys, Tensor values, bool causal)
        {
            using var scope = NewDisposeScope();
            var (output, logSumExp) = FlashKernel.Forward(block.View(q), keys, values, causal);
            mixture.Add(block, output, logSumExp);
        }
    }

    // The gradients of q, k and v, branch by branch.
    private sealed class Gradients
    {
        private readonly DilatedAttentionPlan plan;
        private readonly Tensor q, k, v, output, logSumExp, outputGradient;

        public Gradients(
            DilatedAttentionPlan plan, Tensor q, Tensor k, Tensor v, Tensor output, Tensor logSumExp, Tensor outputGradient)
        {
            this.plan = plan;
            (this.q, this.k, this.v) = (q, k, v);
            this.output = output;
            this.logSumExp = logSumExp;
            this.outputGradient = outputGradient;
            ScalarType accumulate = BranchMixture.AccumulationType(q.dtype);
            Q = zeros_like(q, dtype: accumulate);
            K = zeros_like(k, dtype: accumulate);
            V = zeros_like(v, dtype: accumulate);
        }

        public Tensor Q { get; }

        public Tensor K { get; }

        public Tensor V { get; }

        public void Add(int b, Tensor? gathered)
        {
            using var scope = NewDisposeScope();
            BranchPlan branch = plan.Branches[b];
            Tensor attended = plan.MixingGradient == MixingGradient.Exact ? output : OutputOf(b, gathered);
            foreach (RowBlock block in branch.LocalBlocks)
                AddOwn(block, attended);
            if (branch.Shared is not { } shared)
                return;

            Tensor abroad = zeros(shared.TotalElements, dtype: K.dtype, device: K.device);
            foreach (var (group, block) in shared.OwnBlocks)
            {
                AddOwn(block, attended);
                if (shared.Visible(gathered!, group, plan.Causal) is not var (keys, values))
                    continue;
                var (_, keyGradient, valueGradient) = AddQueries(block, attended, keys, values, causal: false);
                shared.Place(abroad, group, plan.Causal, keyGradient, valueGradient);
            }

            shared.ReturnGradients(abroad, K, V);
        }

        // Σ dO ⊙ O_b in place of Σ dO ⊙ O is what is left of the gradient when the mixing weights are constants.
        private Tensor OutputOf(int b, Tensor? gathered)
        {
            var alone = new BranchMixture(q);
            Attend(alone, plan, b, q, k, v, gathered);
            return alone.Output.to(q.dtype);
        }

        private void AddOwn(RowBlock block, Tensor attended)
        {
            using var scope = NewDisposeScope();
            var (_, keyGradient, valueGradient) = AddQueries(block, attended, block.View(k), block.View(v), plan.Causal);
            block.View(K).add_(keyGradient, Scalars.One);
            block.View(V).add_(valueGradient, Scalars.One);
        }

        private (Tensor Q, Tensor K, Tensor V) AddQueries(RowBlock block, Tensor attended, Tensor keys, Tensor values, bool causal)
        {
            var gradients = FlashKernel.Backward(
                block.View(outputGradient), block.View(q), keys, values, block.View(attended), block.ViewStatistic(logSumExp), causal);
            block.View(Q).add_(gradients.Q, Scalars.One);
            return gradients;
        }
    }
}
