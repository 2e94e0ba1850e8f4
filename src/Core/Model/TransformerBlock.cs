using LongNet.Core.Attention;
using LongNet.Core.Numerics;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace LongNet.Core.Model;

/// <summary>A pre-norm decoder block: x + attention(norm(x)), then x + feedForward(norm(x)).</summary>
public sealed class TransformerBlock : Module<Tensor, DropoutContext?, Tensor>
{
    private readonly DilatedAttention attention;
    private readonly LayerNorm attentionNorm, feedForwardNorm;
    private readonly FeedForward feedForward;
    private readonly double dropout;

    /// <param name="config">Shape and options.</param>
    /// <param name="positions">Shared by all blocks, or null. Not owned.</param>
    /// <param name="exchange">Where the sequence lives; null when all of it is here.</param>
    /// <param name="bias">Shared by all blocks, or null. Not owned.</param>
    public TransformerBlock(LongNetConfig config, RotaryPositions? positions, IKeyValueExchange? exchange, RelativePositionBias? bias = null)
        : base(nameof(TransformerBlock))
    {
        ArgumentNullException.ThrowIfNull(config);
        dropout = config.Dropout;
        var options = new DilatedAttentionOptions(config.Schedule, Causal: true, config.HeadOffsets, config.MixingGradient);
        attention = new DilatedAttention(
            config.DModel, config.Heads, options, config.Dropout, positions, exchange, bias, config.SubLayerNorm);
        attentionNorm = LayerNorm(config.DModel);
        feedForward = new FeedForward(config.DModel, config.FeedForward, config.SubLayerNorm);
        feedForwardNorm = LayerNorm(config.DModel);
        register_module("self_attn", attention);
        register_module("self_attn_layer_norm", attentionNorm);
        register_module("ffn", feedForward);
        register_module("final_layer_norm", feedForwardNorm);
    }

    /// <summary>Collective among the shards of the sequence when an exchange was given.</summary>
    /// <param name="input">[batch, length, dModel]. Not disposed.</param>
    /// <param name="dropoutContext">Makes dropout independent of the sharding; null draws from TorchSharp's generator.</param>
    /// <returns>[batch, length, dModel]. Owned by the caller.</returns>
    public override Tensor forward(Tensor input, DropoutContext? dropoutContext)
    {
        using var scope = NewDisposeScope();
        Tensor attended = input.add(attention.forward(attentionNorm.forward(input), dropoutContext), Scalars.One);
        Tensor fed = feedForward.forward(feedForwardNorm.forward(attended));
        if (training)
            fed = CounterDropout.Apply(fed, dropout, dropoutContext, "feed_forward");
        return attended.add(fed, Scalars.One).MoveToOuterDisposeScope();
    }

    /// <summary>An empty cache for <see cref="Decode"/>.</summary>
    /// <param name="batch">Sequences.</param>
    /// <param name="maxLength">Most rows that will come.</param>
    /// <returns>Owned by the caller.</returns>
    public KeyValueCache CreateCache(long batch, long maxLength) => attention.CreateCache(batch, maxLength);

    /// <summary>The next rows of sequences whose earlier rows went through the same cache. Without dropout, not differentiable.</summary>
    /// <param name="input">[batch, rows, dModel]. Not disposed.</param>
    /// <param name="cache">From <see cref="CreateCache"/>. Not disposed.</param>
    /// <returns>[batch, rows, dModel]. Owned by the caller.</returns>
    public Tensor Decode(Tensor input, KeyValueCache cache)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        Tensor attended = input.add(attention.Decode(attentionNorm.forward(input), cache), Scalars.One);
        return attended.add(feedForward.forward(feedForwardNorm.forward(attended)), Scalars.One).MoveToOuterDisposeScope();
    }
}
