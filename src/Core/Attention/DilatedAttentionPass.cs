using LongNet.Core.Attention.Kernels;
using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>What attention leaves for its backward, beside its inputs.</summary>
/// <param name="Output">[batch, length, heads, headDim], in the queries' type.</param>
/// <param name="LogSumExp">[batch, length, heads], at least float32.</param>
/// <param name="Gathered">Keys and values of other shards, for every shared segment of every branch.</param>
internal sealed record AttentionResult(Tensor Output, Tensor LogSumExp, IReadOnlyList<Tensor> Gathered);

/// <summary>Gradients of attention, in the type that they were accumulated in: at least float32.</summary>
/// <param name="Q">Shaped like the queries.</param>
/// <param name="K">Shaped like the keys.</param>
/// <param name="V">Shaped like the values.</param>
/// <param name="Table">Of the relative position biases; null where there are none, or nobody wants it.</param>
internal sealed record AttentionGradients(Tensor Q, Tensor K, Tensor V, Tensor? Table);

/// <summary>
/// Dilated attention over all branches, forward and exact backward, outside autograd. Both are collective where the
/// plan's exchange is.
/// </summary>
internal static class DilatedAttentionPass
{
    // What a kernel returns for a part of a branch at once, in elements: it is mixed in before it leaves the last
    // cache, and a branch's whole output never stands beside the mixture.
    private const long PartElements = 1 << 20;

    // The kernels' backward shares out whole heads among the threads.
    private const long HeadsPerThread = 4;

    /// <summary>Attends.</summary>
    /// <param name="plan">What is computed.</param>
    /// <param name="table">Relative position biases where the plan has buckets.</param>
    /// <param name="q">[batch, length, heads, headDim], contiguous. Not disposed.</param>
    /// <param name="k">Shaped like q.</param>
    /// <param name="v">Shaped like q.</param>
    /// <returns>Owned by the caller.</returns>
    public static AttentionResult Forward(DilatedAttentionPlan plan, Tensor? table, Tensor q, Tensor k, Tensor v)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        // Under way while the queries attend to the keys that are here.
        IPendingTensor[][] gathered =
        [
            .. plan.Branches.Select(branch => branch.Shared.Select(shared => shared.StartAllGather(k, v)).ToArray()),
        ];
        var (output, logSumExp) = Attend(new BranchAttention(table, plan.Buckets), plan, q, k, v, gathered);
        return new AttentionResult(
            output.MoveToOuterDisposeScope(),
            logSumExp.MoveToOuterDisposeScope(),
            [.. gathered.SelectMany(parts => parts.Select(part => part.Result().MoveToOuterDisposeScope()))]
        );
    }

    /// <summary>Gradients of what <see cref="Forward"/> gave.</summary>
    /// <param name="plan">As in <see cref="Forward"/>.</param>
    /// <param name="table">As in <see cref="Forward"/>.</param>
    /// <param name="q">As in <see cref="Forward"/>.</param>
    /// <param name="k">As in <see cref="Forward"/>.</param>
    /// <param name="v">As in <see cref="Forward"/>.</param>
    /// <param name="result">What it gave. Not disposed.</param>
    /// <param name="outputGradient">Shaped like the output, contiguous. Not disposed.</param>
    /// <returns>Owned by the caller.</returns>
    public static AttentionGradients Backward(
        DilatedAttentionPlan plan,
        Tensor? table,
        Tensor q,
        Tensor k,
        Tensor v,
        AttentionResult result,
        Tensor outputGradient
    )
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        // Zero where this shard has no kept row.
        Tensor? tableGradient =
            table is null || !plan.BiasNeedsGradient
                ? null
                : zeros_like(table, dtype: LogSumExpMerge.AccumulationType(q.dtype));
        var kernel = new BranchAttention(table, plan.Buckets) { TableGradient = tableGradient };
        var pass = new Gradients(plan, kernel, q, k, v, result, outputGradient);
        var gathered = new List<Tensor>[plan.Branches.Count];
        int next = 0;
        for (int b = 0; b < gathered.Length; b++)
        {
            gathered[b] = [.. result.Gathered.Skip(next).Take(plan.Branches[b].Shared.Count)];
            next += gathered[b].Count;
        }

        // What other shards wait for goes first, and is under way while the rest is computed.
        for (int b = 0; b < gathered.Length; b++)
            pass.AddGathered(b, gathered[b]);
        for (int b = 0; b < gathered.Length; b++)
            pass.AddOwn(b, gathered[b]);
        pass.AddReturned();
        return new AttentionGradients(
            pass.Q.MoveToOuterDisposeScope(),
            pass.K.MoveToOuterDisposeScope(),
            pass.V.MoveToOuterDisposeScope(),
            tableGradient?.MoveToOuterDisposeScope()
        );
    }

    // The output in q's dtype, and its log-sum-exp.
    private static (Tensor Output, Tensor LogSumExp) Attend(
        BranchAttention kernel,
        DilatedAttentionPlan plan,
        Tensor q,
        Tensor k,
        Tensor v,
        IPendingTensor[][] gathered
    )
    {
        ScalarType type = LogSumExpMerge.AccumulationType(q.dtype);
        long heads = q.shape[2];
        if (type == q.dtype)
        {
            LogSumExpMerge whole = Mixture(0, heads);
            return (whole.Output, whole.LogSumExp);
        }

        // A mixture in float32 is twice as large as the output: half of the heads at a time keep it as large.
        Tensor output = empty(q.shape, dtype: q.dtype, device: q.device),
            logSumExp = empty(q.shape[..3], dtype: type, device: q.device);
        foreach (var (first, count) in new[] { (0, heads / 2), (heads / 2, heads - heads / 2) })
        {
            using var scope = NewDisposeScope();
            LogSumExpMerge mixture = Mixture(first, count);
            output.narrow(2, first, count).copy_(mixture.Output);
            logSumExp.narrow(2, first, count).copy_(mixture.LogSumExp);
        }

        return (output, logSumExp);

        LogSumExpMerge Mixture(long first, long count)
        {
            var mixture = new LogSumExpMerge(q, first, count);
            for (int b = 0; count > 0 && b < plan.Branches.Count; b++)
                AttendOwn(mixture, kernel, plan, b, q, k, v);
            for (int b = 0; count > 0 && b < plan.Branches.Count; b++)
                AttendGathered(mixture, kernel, plan, b, q, [.. gathered[b].Select(part => part.Result())]);
            return mixture;
        }
    }

    // Mixes one branch's attention to the keys that are here into the mixture.
    private static void AttendOwn(
        LogSumExpMerge mixture,
        BranchAttention kernel,
        DilatedAttentionPlan plan,
        int b,
        Tensor q,
        Tensor k,
        Tensor v
    )
    {
        BranchPlan branch = plan.Branches[b];
        // Where nothing is masked, the own rows of shared segments are among the gathered ones.
        foreach (
            RowBlock whole in branch.LocalBlocks.Concat(
                plan.Causal ? branch.Shared.SelectMany(shared => shared.OwnBlocks.Select(own => own.Block)) : []
            )
        )
        {
            var (own, _, count) = mixture.Restrict(whole);
            foreach (RowBlock block in count > 0 ? Parts(own, q) : [])
                Mix(mixture, kernel, q, block, block.View(k), block.View(v), plan.Causal, before: 0);
        }
    }

    // Mixes one branch's attention to the keys of other shards into the mixture.
    private static void AttendGathered(
        LogSumExpMerge mixture,
        BranchAttention kernel,
        DilatedAttentionPlan plan,
        int b,
        Tensor q,
        IReadOnlyList<Tensor> gathered
    )
    {
        BranchPlan branch = plan.Branches[b];
        for (int s = 0; s < branch.Shared.Count; s++)
        {
            foreach (var (group, block) in branch.Shared[s].OwnBlocks)
            {
                if (branch.Shared[s].Visible(gathered[s], group, plan.Causal) is not var (keys, values, before))
                    continue;
                var (own, first, count) = mixture.Restrict(block);
                if (count > 0)
                    Mix(
                        mixture,
                        kernel,
                        q,
                        own,
                        keys.narrow(1, first, count),
                        values.narrow(1, first, count),
                        causal: false,
                        before
                    );
            }
        }
    }

    private static void Mix(
        LogSumExpMerge mixture,
        BranchAttention kernel,
        Tensor q,
        RowBlock block,
        Tensor keys,
        Tensor values,
        bool causal,
        long before
    )
    {
        using var scope = NewDisposeScope();
        var (output, logSumExp) = kernel.Forward(block, block.View(q), keys, values, causal, before);
        mixture.Add(block, output, logSumExp);
    }

    private static IEnumerable<RowBlock> Parts(RowBlock block, Tensor q) =>
        block.Split(q.shape[3], PartElements, HeadsPerThread * get_num_threads());

    // The gradients of q, k and v, branch by branch.
    private sealed class Gradients
    {
        private readonly DilatedAttentionPlan plan;
        private readonly BranchAttention kernel;
        private readonly Tensor q,
            k,
            v,
            output,
            logSumExp,
            outputGradient;
        private readonly List<(ShardedSegment Shared, IPendingTensor Pending)> returning = [];
        private readonly Tensor?[] alone;

        public Gradients(
            DilatedAttentionPlan plan,
            BranchAttention kernel,
            Tensor q,
            Tensor k,
            Tensor v,
            AttentionResult result,
            Tensor outputGradient
        )
        {
            this.plan = plan;
            this.kernel = kernel;
            (this.q, this.k, this.v, output, logSumExp) = (q, k, v, result.Output, result.LogSumExp);
            this.outputGradient = outputGradient;
            alone = new Tensor?[plan.Branches.Count];
            ScalarType accumulate = LogSumExpMerge.AccumulationType(q.dtype);
            Q = zeros_like(q, dtype: accumulate);
            K = zeros_like(k, dtype: accumulate);
            V = zeros_like(v, dtype: accumulate);
        }

        public Tensor Q { get; }

        public Tensor K { get; }

        public Tensor V { get; }

        /// <summary>What this shard's queries say about other shards' keys and values, which is sent home.</summary>
        public void AddGathered(int b, IReadOnlyList<Tensor> gathered)
        {
            BranchPlan branch = plan.Branches[b];
            for (int s = 0; s < branch.Shared.Count; s++)
            {
                Tensor abroad = Abroad(b, s, gathered);
                returning.Add((branch.Shared[s], branch.Shared[s].StartReduceScatter(abroad)));
            }
        }

        /// <summary>What the queries say about the keys and values that are here.</summary>
        public void AddOwn(int b, IReadOnlyList<Tensor> gathered)
        {
            using var scope = NewDisposeScope();
            BranchPlan branch = plan.Branches[b];
            foreach (
                RowBlock block in branch.LocalBlocks.Concat(
                    plan.Causal ? branch.Shared.SelectMany(shared => shared.OwnBlocks.Select(own => own.Block)) : []
                )
            )
                AddOwn(block, Attended(b, gathered));
            alone[b]?.Dispose();
            alone[b] = null;
        }

        /// <summary>What other shards' queries say about the keys and values that are here.</summary>
        public void AddReturned()
        {
            using var scope = NewDisposeScope();
            foreach (var (shared, pending) in returning)
                shared.Add(pending.Result(), K, V);
        }

        private Tensor Abroad(int b, int s, IReadOnlyList<Tensor> gathered)
        {
            using var scope = NewDisposeScope();
            ShardedSegment shared = plan.Branches[b].Shared[s];
            Tensor abroad = zeros(shared.TotalElements, dtype: K.dtype, device: K.device);
            foreach (var (group, block) in shared.OwnBlocks)
            {
                if (shared.Visible(gathered[s], group, plan.Causal) is not var (keys, values, before))
                    continue;
                var (_, keyGradient, valueGradient) = AddQueries(
                    block,
                    Attended(b, gathered),
                    keys,
                    values,
                    causal: false,
                    before
                );
                shared.AddTo(abroad, group, plan.Causal, keyGradient, valueGradient);
            }

            return abroad.MoveToOuterDisposeScope();
        }

        // A branch's own output is needed twice, before and after other branches' turns, so it is kept and disposed by
        // hand.
        private Tensor Attended(int b, IReadOnlyList<Tensor> gathered)
        {
            if (plan.MixingGradient == MixingGradient.Exact)
                return output;
            if (alone[b] is null)
            {
                using var scope = NewDisposeScope();
                alone[b] = OutputOf(b, gathered).DetachFromDisposeScope();
            }

            return alone[b]!;
        }

        // Σ dO ⊙ O_b in place of Σ dO ⊙ O is what is left of the gradient when the mixing weights are constants.
        private Tensor OutputOf(int b, IReadOnlyList<Tensor> gathered)
        {
            var mixture = new LogSumExpMerge(q);
            AttendOwn(mixture, kernel, plan, b, q, k, v);
            AttendGathered(mixture, kernel, plan, b, q, gathered);
            return mixture.Output.to(q.dtype);
        }

        private void AddOwn(RowBlock whole, Tensor attended)
        {
            foreach (RowBlock block in Parts(whole, q))
            {
                using var scope = NewDisposeScope();
                var (_, keyGradient, valueGradient) = AddQueries(
                    block,
                    attended,
                    block.View(k),
                    block.View(v),
                    plan.Causal,
                    before: 0
                );
                block.View(K).add_(keyGradient, Scalars.One);
                block.View(V).add_(valueGradient, Scalars.One);
            }
        }

        private (Tensor Q, Tensor K, Tensor V) AddQueries(
            RowBlock block,
            Tensor attended,
            Tensor keys,
            Tensor values,
            bool causal,
            long before
        )
        {
            var gradients = kernel.Backward(
                block,
                block.View(outputGradient),
                block.View(q),
                keys,
                values,
                block.View(attended),
                block.ViewStatistic(logSumExp),
                causal,
                before
            );
            block.View(Q).add_(gradients.Q, Scalars.One);
            return gradients;
        }
    }
}
