using LongNet.Core.Attention;
using LongNet.Core.Model.Memory;
using LongNet.Core.Numerics;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace LongNet.Core.Model;

/// <summary>
/// A decoder-only language model with dilated attention. Parameter names are those of the authors' Python code
/// (embed_tokens, layers.N.self_attn.q_proj, …).
/// </summary>
public sealed class LongNetLanguageModel : Module<Tensor, Tensor>
{
    /// <summary>Targets with this value have no loss.</summary>
    public const long IgnoredTarget = -100;

    // GPT-2's initialisation: this deviation everywhere, and residual projections smaller by √(2 · layers).
    private const double InitialDeviation = 0.02;

    private readonly LongNetConfig config;
    private readonly Embedding embedding;
    private readonly TransformerBlock[] blocks;
    private readonly IActivationStore? store;
    private readonly LayerNorm finalNorm;
    private readonly Linear? outputProjection;
    private readonly RotaryPositions? positions;

    /// <param name="config">The model's shape.</param>
    /// <param name="seed">Decides the initial parameters, alike on every rank.</param>
    /// <param name="sharding">
    /// Which rank holds which part of the sequence; null where this rank holds all of it. Not owned.
    /// </param>
    /// <param name="execution">How it computes; null: in float32, keeping everything.</param>
    public LongNetLanguageModel(
        LongNetConfig config,
        long seed,
        ISequenceSharding? sharding = null,
        ModelExecution? execution = null
    )
        : base(nameof(LongNetLanguageModel))
    {
        ArgumentNullException.ThrowIfNull(config);
        this.config = config;
        Execution = execution ?? new ModelExecution();
        positions = RotaryPositions.Create(config.Positions, config.DModel / config.Heads, config.Schedule);
        if (Execution.Recompute != Recompute.None)
            store =
                Execution.OffloadFolder is { } folder ? new DiskActivationStore(folder)
                : Execution.OffloadToHost ? new HostActivationStore()
                : new MemoryActivationStore();
        embedding = Embedding(config.Vocabulary, config.DModel);
        RelativePositionBias? bias = config.RelativePositionBias is { } buckets
            ? new RelativePositionBias(config.Heads, buckets)
            : null;
        blocks =
        [
            .. Enumerable
                .Range(0, checked((int)config.Layers))
                .Select(_ => new TransformerBlock(config, positions, sharding, bias, Execution, store)),
        ];
        finalNorm = LayerNorm(config.DModel);
        register_module("embed_tokens", embedding);
        register_module("layers", ModuleList(blocks));
        register_module("layer_norm", finalNorm);
        if (bias is not null)
            register_module("self_attn_relative_position", bias);
        if (!config.TieEmbeddings)
        {
            outputProjection = Linear(config.DModel, config.Vocabulary, hasBias: false);
            register_module("output_projection", outputProjection);
        }

        Initialize(new RandomStream(0).Derive(seed).Derive("parameters"));
    }

    /// <summary>The model's shape.</summary>
    public LongNetConfig Config => config;

    /// <summary>How it computes.</summary>
    public ModelExecution Execution { get; }

    /// <summary>Moves the parameters to another device. Call before anything holds one of them.</summary>
    /// <param name="device">Where the model is to compute.</param>
    /// <returns>The model itself.</returns>
    public LongNetLanguageModel MoveTo(Device device)
    {
        ArgumentNullException.ThrowIfNull(device);
        if (device.type != DeviceType.CPU)
            this.to(device);
        return this;
    }

    /// <inheritdoc cref="forward(Tensor, DropoutContext?)"/>
    public override Tensor forward(Tensor tokens) => forward(tokens, null);

    /// <summary>Next-token logits. Collective among the ranks of the sequence when sharded.</summary>
    /// <param name="tokens">[batch, length], int64: the tokens on this rank. Not disposed.</param>
    /// <param name="dropoutContext">Makes dropout independent of the sharding; null draws from TorchSharp's
    /// generator.</param>
    /// <returns>[batch, length, vocabulary]. Owned by the caller.</returns>
    public Tensor forward(Tensor tokens, DropoutContext? dropoutContext)
    {
        using var scope = NewDisposeScope();
        return Logits(Hidden(tokens, dropoutContext, gradientsReady: null)).MoveToOuterDisposeScope();
    }

    /// <summary>An empty cache for <see cref="Decode"/>.</summary>
    /// <param name="batch">Sequences.</param>
    /// <param name="maxLength">Most tokens that will come; xPos refuses more than it can scale.</param>
    /// <returns>Owned by the caller.</returns>
    /// <exception cref="UserException">The sequence is sharded.</exception>
    public DecodingCache CreateCache(long batch, long maxLength) =>
        new([.. blocks.Select(block => block.CreateCache(batch, maxLength))]);

    /// <summary>
    /// Logits after the next tokens of sequences whose earlier tokens went through the same cache: one at a time, in
    /// chunks or all at once, with the result of the complete sequence to rounding. Without dropout, not
    /// differentiable.
    /// </summary>
    /// <param name="tokens">[batch, count], int64. Not disposed.</param>
    /// <param name="cache">From <see cref="CreateCache"/>; takes up the tokens. Not disposed.</param>
    /// <returns>[batch, count, vocabulary]. Owned by the caller.</returns>
    /// <exception cref="UserException">Another batch than the cache's, or more tokens than it was made for.</exception>
    public Tensor Decode(Tensor tokens, DecodingCache cache)
    {
        ArgumentNullException.ThrowIfNull(tokens);
        ArgumentNullException.ThrowIfNull(cache);
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        Tensor hidden = Embed(tokens);
        for (int layer = 0; layer < blocks.Length; layer++)
            hidden = blocks[layer].Decode(hidden, cache.Layers[layer]);
        return Logits(hidden).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Sum of the cross-entropies of all valid targets, in nats. Collective when sharded.
    /// </summary>
    /// <param name="tokens">[batch, length], int64.</param>
    /// <param name="targets">[batch, length], int64; <see cref="IgnoredTarget"/> where there is none.</param>
    /// <param name="dropoutContext">As in <see cref="forward(Tensor, DropoutContext?)"/>.</param>
    /// <param name="gradientsReady">
    /// Called with a block's index during the backward pass of this loss, as soon as the gradients of all parameters of
    /// the block ("layers.N.…") are complete; the last block comes first. Null where nothing waits for them.
    /// </param>
    /// <param name="hasIgnoredTargets">
    /// Whether some targets are <see cref="IgnoredTarget"/>; null: the targets are asked, for which the program waits
    /// where they do not lie on the CPU.
    /// </param>
    /// <returns>Scalar, at least float32; 0 where no target is valid. Owned by the caller.</returns>
    public Tensor LossSum(
        Tensor tokens,
        Tensor targets,
        DropoutContext? dropoutContext = null,
        Action<int>? gradientsReady = null,
        bool? hasIgnoredTargets = null
    )
    {
        ArgumentNullException.ThrowIfNull(targets);
        using var scope = NewDisposeScope();
        return ChunkedCrossEntropy
            .Sum(
                Hidden(tokens, dropoutContext, gradientsReady),
                finalNorm,
                Projection,
                new ChunkedCrossEntropy.Labels(targets, hasIgnoredTargets),
                Execution.LossRows
            )
            .MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Bytes that recomputed blocks offload between forward and backward. Collective when sharded.
    /// </summary>
    /// <param name="batch">Sequences.</param>
    /// <param name="length">Tokens of each on this rank.</param>
    /// <returns>0 where nothing is offloaded.</returns>
    public long OffloadedBytes(long batch, long length) =>
        Execution.OffloadFolder is null || store is null
            ? 0
            : blocks.Sum(block => block.Recomputed!.KeptBytes(batch, length, ComputeType));

    /// <summary>
    /// Reserves space in the offload folder now, where the file system can. Not collective.
    /// </summary>
    /// <param name="bytes">From <see cref="OffloadedBytes"/>.</param>
    /// <exception cref="UserException">There is less; the message names the need, the free space and a
    /// remedy.</exception>
    public void ReserveOffload(long bytes) => store?.Reserve(bytes);

    private Tensor Projection => outputProjection?.weight ?? embedding.weight!;

    // The last block's output, in the scope of the caller.
    private Tensor Hidden(Tensor tokens, DropoutContext? dropoutContext, Action<int>? gradientsReady)
    {
        ArgumentNullException.ThrowIfNull(tokens);
        BackwardPass.ThrowIfFailed();
        Tensor hidden = Embed(tokens);
        if (training)
            hidden = CounterDropout.Apply(hidden, config.Dropout, dropoutContext, "embedding");
        for (int layer = 0; layer < blocks.Length; layer++)
        {
            DropoutContext? ofLayer = dropoutContext is null
                ? null
                : dropoutContext with
                {
                    Stream = dropoutContext.Stream.Derive(layer),
                };
            // Forward is done with a block's input after the block. What backward needs of it is held by the graph, or
            // by a recomputed block, which may have moved it to disk.
            using Tensor input = WithHook(hidden, layer, gradientsReady);
            hidden = blocks[layer].forward(input, ofLayer);
        }

        return hidden;
    }

    // Backward passes a block's input when all gradients of the block are complete.
    private static Tensor WithHook(Tensor input, int block, Action<int>? gradientsReady)
    {
        if (gradientsReady is null || !is_grad_enabled())
            return input;
        Tensor hooked = BackwardHook.Place(input, () => gradientsReady(block));
        input.Dispose();
        return hooked;
    }

    private Tensor Embed(Tensor tokens)
    {
        using var scope = NewDisposeScope();
        return embedding.forward(tokens).to(ComputeType).MoveToOuterDisposeScope();
    }

    // Parameters that were made float64 compute in it.
    private ScalarType ComputeType =>
        embedding.weight!.dtype == ScalarType.Float32 ? Execution.ComputeType : embedding.weight.dtype;

    // As precise as the parameters.
    private Tensor Logits(Tensor hidden)
    {
        Tensor normalized = MixedPrecision.Apply(finalNorm, hidden);
        return functional.linear(normalized, Projection.to(normalized.dtype)).to(Projection.dtype);
    }

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            positions?.Dispose();
            store?.Dispose();
        }

        base.Dispose(disposing);
    }

    // Every parameter draws from a stream of its own name, so that adding one does not change the others' values.
    private void Initialize(RandomStream stream)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        foreach (var (name, parameter) in named_parameters())
        {
            if (name.EndsWith(".bias", StringComparison.Ordinal))
            {
                parameter.zero_();
            }
            else if (parameter.dim() >= 2) // LayerNorms' weights stay 1.
            {
                bool intoResidual =
                    name.EndsWith("out_proj.weight", StringComparison.Ordinal)
                    || name.EndsWith("fc2.weight", StringComparison.Ordinal);
                double deviation = intoResidual ? InitialDeviation / Math.Sqrt(2 * config.Layers) : InitialDeviation;
                using var generator = new Generator(stream.Derive(name).Key);
                // init.normal_ takes a generator but ignores it.
                parameter.normal_(0, deviation, generator);
            }
        }
    }
}
