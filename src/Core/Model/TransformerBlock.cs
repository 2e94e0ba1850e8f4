using LongNet.Core.Attention;
using LongNet.Core.Model.Memory;
using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace LongNet.Core.Model;

/// <summary>A pre-norm decoder block: x + attention(norm(x)), then x + feedForward(norm(x)).</summary>
public sealed class TransformerBlock : Module<Tensor, DropoutContext?, Tensor>
{
    private readonly DilatedAttention attention;
    private readonly LayerNorm attentionNorm,
        feedForwardNorm;
    private readonly FeedForward feedForward;
    private readonly RecomputedBlock? recomputed;
    private readonly double dropout;

    /// <param name="config">Shape and options.</param>
    /// <param name="positions">Shared by all blocks, or null. Not owned.</param>
    /// <param name="sharding">Which rank holds which part of the sequence; null where this rank holds all of
    /// it.</param>
    /// <param name="bias">Shared by all blocks, or null. Not owned.</param>
    public TransformerBlock(
        LongNetConfig config,
        RotaryPositions? positions,
        ISequenceSharding? sharding,
        RelativePositionBias? bias = null
    )
        : this(config, positions, sharding, bias, new ModelExecution(), null) { }

    /// <param name="config">Shape and options.</param>
    /// <param name="positions">Shared by all blocks, or null. Not owned.</param>
    /// <param name="sharding">Which rank holds which part of the sequence; null where this rank holds all of
    /// it.</param>
    /// <param name="bias">Shared by all blocks, or null. Not owned.</param>
    /// <param name="execution">How it computes.</param>
    /// <param name="store">Where what a recomputed block keeps waits; null where nothing is recomputed. Not
    /// owned.</param>
    internal TransformerBlock(
        LongNetConfig config,
        RotaryPositions? positions,
        ISequenceSharding? sharding,
        RelativePositionBias? bias,
        ModelExecution execution,
        IActivationStore? store
    )
        : base(nameof(TransformerBlock))
    {
        ArgumentNullException.ThrowIfNull(config);
        dropout = config.Dropout;
        attention = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = config.DModel,
                Heads = config.Heads,
                Branches = config.Schedule,
                Causal = true,
                Positions = config.Positions,
                RelativePositionBias = config.RelativePositionBias,
                SubLayerNorm = config.SubLayerNorm,
                Dropout = config.Dropout,
                HeadOffsets = config.HeadOffsets,
                MixingGradient = config.MixingGradient,
            },
            sharding,
            positions,
            bias
        );
        attentionNorm = LayerNorm(config.DModel);
        feedForward = new FeedForward(config.DModel, config.FeedForward, config.SubLayerNorm);
        feedForwardNorm = LayerNorm(config.DModel);
        register_module("self_attn", attention);
        register_module("self_attn_layer_norm", attentionNorm);
        register_module("ffn", feedForward);
        register_module("final_layer_norm", feedForwardNorm);
        if (store is not null)
            recomputed = new RecomputedBlock(
                this,
                execution.Recompute,
                new TileSize(execution.TileRows, Math.Max(config.FeedForward, config.DModel)),
                store
            );
    }

    internal DilatedAttention Attention => attention;

    /// <summary>How the block recomputes; null where it keeps everything.</summary>
    internal RecomputedBlock? Recomputed => recomputed;

    /// <summary>Whether forward makes random choices.</summary>
    internal bool DropsOut => training && dropout > 0;

    /// <summary>Collective among the ranks of the sequence when sharded.</summary>
    /// <param name="input">[batch, length, dModel]. Not disposed.</param>
    /// <param name="dropoutContext">Makes dropout independent of the sharding; null draws from TorchSharp's
    /// generator.</param>
    /// <returns>[batch, length, dModel]. Owned by the caller.</returns>
    public override Tensor forward(Tensor input, DropoutContext? dropoutContext)
    {
        ArgumentNullException.ThrowIfNull(input);
        BackwardPass.ThrowIfFailed();
        if (recomputed is not null)
            return recomputed.Apply(input, dropoutContext);
        using var scope = NewDisposeScope();
        var (q, k, v) = Project(input, attention.ShardOf(input.shape[1]));
        Tensor attended = DilatedAttention
            .Attend(q, k, v, attention.Pattern, attention.Sharding, bias: attention.Bias)
            .view(input.shape);
        return Finish(input, attended, dropoutContext).MoveToOuterDisposeScope();
    }

    /// <summary>An empty cache for <see cref="Decode"/>.</summary>
    /// <param name="batch">Sequences.</param>
    /// <param name="maxLength">Most tokens that will come.</param>
    /// <returns>Owned by the caller.</returns>
    public KeyValueCache CreateCache(long batch, long maxLength) => attention.CreateCache(batch, maxLength);

    /// <summary>
    /// Computes the next tokens of sequences whose earlier tokens went through the same cache. Without dropout, not
    /// differentiable.
    /// </summary>
    /// <param name="input">[batch, rows, dModel]. Not disposed.</param>
    /// <param name="cache">From <see cref="CreateCache"/>. Not disposed.</param>
    /// <returns>[batch, rows, dModel]. Owned by the caller.</returns>
    public Tensor Decode(Tensor input, KeyValueCache cache)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        Tensor attended = input.add(attention.Decode(MixedPrecision.Apply(attentionNorm, input), cache), Scalars.One);
        return attended
            .add(feedForward.forward(MixedPrecision.Apply(feedForwardNorm, attended)), Scalars.One)
            .MoveToOuterDisposeScope();
    }

    /// <summary>Norm and projections before the attention itself, a function of single tokens.</summary>
    /// <param name="input">[batch, rows, dModel]: consecutive tokens of this rank. Not disposed.</param>
    /// <param name="shard">The positions of all tokens on this rank.</param>
    /// <param name="first">Index of the first given token among them.</param>
    /// <returns>q, k and v, [batch, rows, heads, headDim]. In the scope of the caller.</returns>
    internal (Tensor Q, Tensor K, Tensor V) Project(Tensor input, SequenceShard shard, long first = 0) =>
        attention.Project(MixedPrecision.Apply(attentionNorm, input), shard, first);

    /// <summary>Everything after the attention itself, a function of single tokens.</summary>
    /// <param name="input">The block's input, [batch, rows, dModel]. Not disposed.</param>
    /// <param name="attended">The attention of the same tokens, heads concatenated, [batch, rows, dModel]. Not
    /// disposed.</param>
    /// <param name="dropoutContext">Where these tokens lie.</param>
    /// <returns>The block's output. In the scope of the caller.</returns>
    internal Tensor Finish(Tensor input, Tensor attended, DropoutContext? dropoutContext)
    {
        Tensor residual = input.add(attention.Finish(attended, dropoutContext), Scalars.One);
        Tensor fed = feedForward.forward(MixedPrecision.Apply(feedForwardNorm, residual));
        if (training)
            fed = CounterDropout.Apply(fed, dropout, dropoutContext, "feed_forward");
        return residual.add(fed, Scalars.One);
    }
}
