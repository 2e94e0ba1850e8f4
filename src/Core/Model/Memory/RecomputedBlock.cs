using LongNet.Core.Attention;
using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using static TorchSharp.torch;

namespace LongNet.Core.Model.Memory;

/// <summary>
/// A transformer block that keeps little for backward and computes the rest again (activation checkpointing,
/// arXiv:1604.06174). Attention sees all rows at once; what comes before it (norm, projections, rotation) and after it
/// (projection, residual, feed-forward network) is a function of single rows and goes tile by tile, forward and
/// backward, so that nothing but the input, q, k, v, the attended rows and their gradients is ever as long as the
/// sequence.
/// </summary>
/// <remarks>
/// The usual way computes a whole block again at once. It keeps as little between forward and backward, but in backward
/// it holds all intermediate results of one block. If the model has few layers, that is most of what it would hold
/// without recomputation.
/// </remarks>
/// <param name="block">Whose functions these are. Not owned.</param>
/// <param name="recompute">Whether attention is computed again too.</param>
/// <param name="tileSize">Most rows of a tile.</param>
/// <param name="store">Where what is kept waits. Not owned.</param>
internal sealed class RecomputedBlock(
    TransformerBlock block,
    Recompute recompute,
    TileSize tileSize,
    IActivationStore store
)
{
    /// <summary>The block's result, differentiable. Collective as the block's own forward; so is backward.</summary>
    /// <param name="input">[batch, length, dModel]. Not disposed.</param>
    /// <param name="context">Null draws a seed from TorchSharp's generator where there is dropout, so that backward
    /// sees the same.</param>
    /// <returns>Shaped alike. Owned by the caller.</returns>
    public Tensor Apply(Tensor input, DropoutContext? context)
    {
        context ??= block.DropsOut ? DropoutContext.Drawn(input.shape[0], input.shape[1]) : null;
        using var scope = NewDisposeScope();
        return is_grad_enabled() && input.requires_grad
            ? RecomputedBlockFunction.apply(input, this, context!).MoveToOuterDisposeScope()
            : Forward(input, context, keeps: false).Output.MoveToOuterDisposeScope();
    }

    /// <summary>
    /// What waits in the store between forward and backward. Collective among the shards of the sequence.
    /// </summary>
    /// <param name="batch">Sequences.</param>
    /// <param name="length">Rows held of each.</param>
    /// <param name="type">That is computed in.</param>
    public long KeptBytes(long batch, long length, ScalarType type)
    {
        long elements = batch * length * block.Attention.DModel,
            logSumExps = batch * length * block.Attention.Heads;
        long size = type switch
        {
            ScalarType.Float64 => sizeof(double),
            ScalarType.Float32 => sizeof(float),
            _ => sizeof(short),
        };
        if (recompute == Recompute.Full)
            return elements * size;
        long gathered = block
            .Attention.Plan(batch, length)
            .Branches.Sum(branch => branch.ShardedSegments.Sum(segment => segment.TotalElements));
        return (2 * elements + gathered) * size + logSumExps * Math.Max(sizeof(float), size);
    }

    /// <summary>Forward, outside autograd.</summary>
    /// <param name="input">[batch, length, dModel]. Not disposed.</param>
    /// <param name="context">Of the rows held.</param>
    /// <param name="keeps">Whether backward follows.</param>
    /// <returns>The output, in the scope of the caller, and what backward needs.</returns>
    internal (Tensor Output, SavedForBackward? Saved) Forward(Tensor input, DropoutContext? context, bool keeps)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        input = input.contiguous();
        DilatedAttentionPlan plan = block.Attention.Plan(input.shape[0], input.shape[1]);
        AttentionResult result;
        using (AttentionInputs inputs = Project(input))
            result = DilatedAttentionPass.Forward(plan, inputs);
        Tensor attended = result.Output.view(input.shape),
            output = empty_like(input);
        foreach (RowTile tile in Tiles(input))
        {
            using var tileScope = NewDisposeScope();
            tile.View(output).copy_(block.Finish(tile.View(input), tile.View(attended), tile.Of(context)));
        }

        SavedForBackward? saved = null;
        if (keeps)
        {
            // Backward takes them in the opposite order.
            IStoredActivation[] attention =
                recompute == Recompute.Full ? [] : [.. SavedAttention.Pack(result).Select(store.Store)];
            saved = new SavedForBackward(this, plan, context, attention, store.Store(input));
        }

        return (output.MoveToOuterDisposeScope(), saved);
    }

    /// <summary>Backward, outside autograd. Gradients of the block's parameters add to theirs.</summary>
    /// <param name="saved">What forward left.</param>
    /// <param name="outputGradient">Shaped like the output. Not disposed.</param>
    /// <returns>The input's gradient, in the scope of the caller.</returns>
    internal Tensor Backward(SavedForBackward saved, Tensor outputGradient)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        using Tensor input = saved.Input.Take();
        SequenceShard shard = block.Attention.ShardOf(input.shape[1]);
        AttentionInputs? inputs = recompute == Recompute.Full ? Project(input) : null;
        AttentionResult result = inputs is null
            ? SavedAttention.UnpackResult(saved.Plan, saved.Attention.Reverse().Select(each => each.Take()).Reverse())
            : DilatedAttentionPass.Forward(saved.Plan, inputs);

        Tensor attended = result.Output.view(input.shape),
            inputGradient = empty_like(input),
            attendedGradient = empty_like(input);
        foreach (RowTile tile in Tiles(input))
            FinishBackward(tile, saved.Context, input, attended, outputGradient, inputGradient, attendedGradient);

        inputs ??= Project(input);
        AttentionGradients gradients = DilatedAttentionPass.Backward(
            saved.Plan,
            inputs,
            result,
            attendedGradient.view(inputs.Q.shape)
        );
        inputs.Dispose();
        result.Dispose();
        attended.Dispose();
        attendedGradient.Dispose();
        if (gradients.Table is not null)
            block.Attention.Bias!.Table.backward([gradients.Table.to(block.Attention.Bias.Table.dtype)]);
        foreach (RowTile tile in Tiles(input))
            ProjectBackward(tile, shard, input, gradients, inputGradient);
        return inputGradient.MoveToOuterDisposeScope();
    }

    private IEnumerable<RowTile> Tiles(Tensor tensor) =>
        RowTile.Cut(tensor.shape[0], tensor.shape[1], tileSize.RowsOn(tensor.device_type));

    // In the scope of the caller.
    private AttentionInputs Project(Tensor input)
    {
        SequenceShard shard = block.Attention.ShardOf(input.shape[1]);
        long[] shape = [input.shape[0], input.shape[1], block.Attention.Heads, input.shape[2] / block.Attention.Heads];
        Tensor q = empty(shape, dtype: input.dtype, device: input.device),
            k = empty_like(q),
            v = empty_like(q);
        foreach (RowTile tile in Tiles(input))
        {
            using var scope = NewDisposeScope();
            var (ofQ, ofK, ofV) = block.Project(tile.View(input), shard, tile.FirstRow);
            tile.View(q).copy_(ofQ);
            tile.View(k).copy_(ofK);
            tile.View(v).copy_(ofV);
        }

        return new AttentionInputs(q, k, v, block.Attention.Table);
    }

    private void FinishBackward(
        RowTile tile,
        DropoutContext? context,
        Tensor input,
        Tensor attended,
        Tensor outputGradient,
        Tensor inputGradient,
        Tensor attendedGradient
    )
    {
        using var scope = NewDisposeScope();
        Tensor ownInput = Leaf(tile.View(input)),
            ownAttended = Leaf(tile.View(attended));
        Tensor output;
        using (enable_grad())
            output = block.Finish(ownInput, ownAttended, tile.Of(context));
        output.backward([tile.View(outputGradient)]);
        tile.View(inputGradient).copy_(ownInput.grad!);
        tile.View(attendedGradient).copy_(ownAttended.grad!);
    }

    private void ProjectBackward(
        RowTile tile,
        SequenceShard shard,
        Tensor input,
        AttentionGradients gradients,
        Tensor inputGradient
    )
    {
        using var scope = NewDisposeScope();
        Tensor own = Leaf(tile.View(input)),
            projected;
        using (enable_grad())
        {
            var (q, k, v) = block.Project(own, shard, tile.FirstRow);
            projected = stack([q, k, v]);
        }

        projected.backward([
            stack([tile.View(gradients.Q), tile.View(gradients.K), tile.View(gradients.V)]).to(projected.dtype),
        ]);
        tile.View(inputGradient).add_(own.grad!, Scalars.One);
    }

    private static Tensor Leaf(Tensor tensor) => tensor.detach().requires_grad_(true);

    /// <summary>What forward leaves for backward.</summary>
    /// <param name="Block">The block that left it.</param>
    /// <param name="Plan">What attention consists of.</param>
    /// <param name="Context">Decides the random choices.</param>
    /// <param name="Attention">The packed result of attention, where that is not computed again.</param>
    /// <param name="Input">The block's input.</param>
    internal sealed record SavedForBackward(
        RecomputedBlock Block,
        DilatedAttentionPlan Plan,
        DropoutContext? Context,
        IReadOnlyList<IStoredActivation> Attention,
        IStoredActivation Input
    );
}

/// <summary>A recomputed block as one differentiable operation.</summary>
/// <remarks>Inputs: the block's input, the block, and the context of its random choices.</remarks>
internal sealed class RecomputedBlockFunction : autograd.SingleTensorFunction<RecomputedBlockFunction>
{
    private const string SavedKey = "saved";
    private const int Inputs = 3;

    public override string Name => nameof(RecomputedBlockFunction);

    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        using var scope = NewDisposeScope();
        var (output, saved) = ((RecomputedBlock)vars[1]).Forward(
            ((Tensor)vars[0]).detach(),
            (DropoutContext?)vars[2],
            keeps: true
        );
        ctx.save_data(SavedKey, saved!);
        // Else a tensor of the output's size would wait for backward.
        ctx.set_materialize_grads(false);
        return output.MoveToOuterDisposeScope();
    }

    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output) =>
        BackwardPass.Guard(Inputs, () =>
        {
            using var scope = NewDisposeScope();
            var saved = (RecomputedBlock.SavedForBackward)ctx.get_data(SavedKey);
            return [saved.Block.Backward(saved, grad_output.contiguous()).MoveToOuterDisposeScope(), null!, null!];
        });
}
