using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace LongNet.Core.Attention;

/// <summary>
/// Multi-head dilated attention (section 2 of arXiv:2307.02486): project to queries, keys and values, attend in every
/// branch, mix the branches by their softmax denominators, drop out, project back.
/// </summary>
/// <remarks>
/// Cost grows linearly with length. Lengths that a segment does not divide end in a short segment; nothing is padded. A
/// token that no branch of a head keeps gets 0 from that head.
/// </remarks>
public sealed class DilatedAttention : Module<Tensor, Tensor>
{
    private readonly Linear queryProjection,
        keyProjection,
        valueProjection,
        outputProjection;
    private readonly DilatedAttentionOptions options;
    private readonly AttentionPattern pattern;
    private readonly ISequenceSharding sharding;
    private readonly RotaryPositions? positions;
    private readonly Unregistered<RelativePositionBias>? bias;
    private readonly LayerNorm? mergedHeadsNorm;
    private readonly bool ownsPositions;

    /// <summary>One branch on one rank, as in the original documentation.</summary>
    /// <param name="dModel">Channels of input and output; a multiple of <paramref name="numHeads"/>.</param>
    /// <param name="numHeads">Number of heads.</param>
    /// <param name="dilationRate">Dilation of the branch: the distance between kept tokens, r in the paper.</param>
    /// <param name="segmentSize">Segment length of the branch, w in the paper.</param>
    /// <param name="dropout">Probability of dropping an element of the attention output in training mode.</param>
    /// <param name="causal">Whether a token sees only itself and earlier tokens.</param>
    /// <param name="useXpos">Whether queries and keys carry their positions by
    /// <see cref="RotaryPositions.XPos"/>.</param>
    /// <param name="useRelPosBias">Whether logits have a learned bias by distance and head:
    /// <see cref="RelativePositionBias"/>.</param>
    /// <exception cref="UserException">Heads do not divide the channels, or a value is out of range.</exception>
    public DilatedAttention(
        long dModel,
        long numHeads,
        long dilationRate,
        long segmentSize,
        double dropout = 0.0,
        bool causal = false,
        bool useXpos = false,
        bool useRelPosBias = false
    )
        : this(
            new DilatedAttentionOptions
            {
                Channels = dModel,
                Heads = numHeads,
                Branches = [new Branch(segmentSize, dilationRate)],
                Dropout = dropout,
                Causal = causal,
                Positions = useXpos ? PositionEncoding.XPos : PositionEncoding.None,
                RelativePositionBias = useRelPosBias ? RelativePositionBuckets.Default(bidirectional: !causal) : null,
            }
        ) { }

    /// <summary>Several branches, mixed; on one rank or on several.</summary>
    /// <param name="options">What is computed.</param>
    /// <param name="sharding">
    /// Which rank holds which part of the sequence; null where this rank holds all of it. With a sharding, forward and
    /// backward are collective. This is the <c>Distributed</c> flag of the original documentation. Not owned.
    /// </param>
    /// <exception cref="UserException">Heads do not divide the channels, or a value is out of range.</exception>
    public DilatedAttention(DilatedAttentionOptions options, ISequenceSharding? sharding = null)
        : this(options, sharding, CreatePositions(options), CreateBias(options))
    {
        ownsPositions = true;
        if (bias is not null)
            register_module("relative_position", bias.Module);
    }

    /// <summary>For models, whose layers share rotary positions and relative position biases.</summary>
    /// <param name="options">What is computed.</param>
    /// <param name="sharding">As above.</param>
    /// <param name="positions">For the same head size and schedule; null for none. Not owned.</param>
    /// <param name="bias">For the same number of heads; null for none. Not owned: its parameter is not among this
    /// module's.</param>
    internal DilatedAttention(
        DilatedAttentionOptions options,
        ISequenceSharding? sharding,
        RotaryPositions? positions,
        RelativePositionBias? bias
    )
        : base(nameof(DilatedAttention))
    {
        ArgumentNullException.ThrowIfNull(options);
        pattern = options.Pattern;
        _ = options.HeadDim;
        if (options.Dropout is not (>= 0 and < 1))
            throw new UserException($"dropout is {options.Dropout}, but must be at least 0 and below 1.");
        this.options = options;
        this.sharding = sharding ?? UnshardedSequence.Instance;
        this.positions = positions;
        bias?.CheckHeads(options.Heads);
        this.bias = bias is null ? null : new(bias);

        queryProjection = Linear(DModel, DModel);
        keyProjection = Linear(DModel, DModel);
        valueProjection = Linear(DModel, DModel);
        outputProjection = Linear(DModel, DModel);
        register_module("q_proj", queryProjection);
        register_module("k_proj", keyProjection);
        register_module("v_proj", valueProjection);
        register_module("out_proj", outputProjection);
        if (options.SubLayerNorm)
        {
            mergedHeadsNorm = LayerNorm(DModel);
            register_module("inner_attn_ln", mergedHeadsNorm);
        }
    }

    internal AttentionPattern Pattern => pattern;

    internal RotaryPositions? Rotation => positions;

    internal long Heads => options.Heads;

    internal long DModel => options.Channels;

    internal RelativePositionBias? Bias => bias?.Module;

    internal ISequenceSharding Sharding => sharding;

    /// <summary>The relative position biases outside autograd, [buckets, heads]; null without.</summary>
    internal Tensor? Table => bias?.Module.Table.detach();

    /// <summary>The positions of the tokens on this rank.</summary>
    internal SequenceShard ShardOf(long rows) => sharding.ShardOf(rows);

    /// <summary>What attention over the tokens on this rank consists of. Collective as forward is.</summary>
    internal DilatedAttentionPlan Plan(long batch, long rows) =>
        DilatedAttentionPlan.Create([batch, rows, Heads, options.HeadDim], pattern, sharding, null, bias?.Module);

    /// <summary>The projections before the attention itself, a function of single tokens.</summary>
    /// <param name="input">[batch, rows, dModel]: consecutive tokens of this rank. Not disposed.</param>
    /// <param name="shard">The positions of all tokens on this rank.</param>
    /// <param name="first">Index of the first given token among them.</param>
    /// <returns>
    /// [batch, rows, heads, headDim] each, queries and keys rotated by their positions. In the scope of the caller.
    /// </returns>
    internal (Tensor Q, Tensor K, Tensor V) Project(Tensor input, SequenceShard shard, long first = 0)
    {
        Tensor q = SplitHeads(MixedPrecision.Apply(queryProjection, input));
        Tensor k = SplitHeads(MixedPrecision.Apply(keyProjection, input));
        Tensor v = SplitHeads(MixedPrecision.Apply(valueProjection, input));
        if (positions is not null)
            (q, k) = positions.Rotate(q, k, shard, first);
        return (q, k, v);
    }

    /// <summary>Dropout and projection after the attention itself, a function of single tokens.</summary>
    /// <param name="attended">The attention of all heads, concatenated, [batch, rows, dModel]. Not disposed.</param>
    /// <param name="dropoutContext">Where these tokens lie; null draws from TorchSharp's generator.</param>
    /// <returns>Shaped alike. In the scope of the caller.</returns>
    internal Tensor Finish(Tensor attended, DropoutContext? dropoutContext) =>
        ProjectBack(training ? CounterDropout.Apply(attended, options.Dropout, dropoutContext, "attention") : attended);

    /// <inheritdoc cref="forward(Tensor, DropoutContext?)"/>
    public override Tensor forward(Tensor input) => forward(input, null);

    /// <summary>Attends. Collective among the ranks of the sequence when sharded.</summary>
    /// <param name="input">[batch, length, dModel]: the tokens on this rank. Not disposed.</param>
    /// <param name="dropoutContext">Makes dropout independent of the sharding; null draws from TorchSharp's
    /// generator.</param>
    /// <returns>[batch, length, dModel]. Owned by the caller.</returns>
    public Tensor forward(Tensor input, DropoutContext? dropoutContext)
    {
        ArgumentNullException.ThrowIfNull(input);
        BackwardPass.ThrowIfFailed();
        CheckShape(input);
        using var scope = NewDisposeScope();
        return Attend(input, null, dropoutContext).MoveToOuterDisposeScope();
    }

    /// <summary>
    /// Attends to sequences of different lengths, padded at their ends: each as if it were the only one. Padding is not
    /// read, gives zeros and gets no gradient. Collective among the ranks of the sequence when sharded.
    /// </summary>
    /// <param name="input">[batch, length, dModel]: the tokens on this rank. Not disposed.</param>
    /// <param name="lengths">Tokens of every complete sequence; the rest is padding. Sharded: the same list on all
    /// ranks.</param>
    /// <param name="dropoutContext">As in <see cref="forward(Tensor, DropoutContext?)"/>.</param>
    /// <returns>[batch, length, dModel]. Owned by the caller.</returns>
    /// <exception cref="UserException">Not one length per sequence, or one out of range.</exception>
    public Tensor forward(Tensor input, IReadOnlyList<long> lengths, DropoutContext? dropoutContext = null)
    {
        ArgumentNullException.ThrowIfNull(input);
        ArgumentNullException.ThrowIfNull(lengths);
        BackwardPass.ThrowIfFailed();
        CheckShape(input);
        SequenceShard shard = sharding.ShardOf(input.shape[1]);
        CheckLengths(lengths, input.shape[0], shard);

        using var scope = NewDisposeScope();
        Tensor ends = tensor(lengths.ToArray(), dtype: ScalarType.Int64, device: input.device).view(-1, 1, 1);
        Tensor positions = tensor(shard.Positions(), dtype: ScalarType.Int64, device: CPU).to(input.device);
        Tensor padding = positions.view(1, -1, 1).ge(ends);
        Tensor zero = zeros([], dtype: input.dtype, device: input.device);

        // The input's padding is zeroed as well: a NaN in it would reach the projections' gradients.
        Tensor attended = Attend(where(padding, zero, input), lengths, dropoutContext);
        return where(padding, zero, attended).MoveToOuterDisposeScope();
    }

    /// <summary>An empty cache for <see cref="Decode"/>.</summary>
    /// <param name="batch">Sequences.</param>
    /// <param name="maxLength">Most tokens that will come; xPos refuses more than it can scale.</param>
    /// <returns>Owned by the caller.</returns>
    /// <exception cref="UserException">The attention is not causal, or its sequence is sharded.</exception>
    public KeyValueCache CreateCache(long batch, long maxLength)
    {
        if (sharding is not UnshardedSequence)
            throw new UserException("Decoding works on one rank: make the attention without a sharding.");
        return new KeyValueCache(pattern, batch, Heads, options.HeadDim, maxLength);
    }

    /// <summary>
    /// Attends the next tokens of sequences whose earlier tokens went through the same cache: one at a time, in chunks
    /// or all at once, with the result of the complete sequence to rounding. Without dropout, not differentiable.
    /// </summary>
    /// <param name="input">[batch, rows, dModel]. Not disposed.</param>
    /// <param name="cache">From <see cref="CreateCache"/>; takes up the tokens. Not disposed.</param>
    /// <returns>[batch, rows, dModel]. Owned by the caller.</returns>
    /// <exception cref="UserException">Another batch than the cache's, or more tokens than it was made for.</exception>
    public Tensor Decode(Tensor input, KeyValueCache cache)
    {
        ArgumentNullException.ThrowIfNull(input);
        ArgumentNullException.ThrowIfNull(cache);
        CheckShape(input);
        cache.CheckUse(pattern, input.shape[1]);
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        var (q, k, v) = Project(input, SequenceShard.Complete(cache.MaxLength).Slice(cache.Length, input.shape[1]));
        return ProjectBack(cache.Attend(q, k, v, bias?.Module).reshape(input.shape)).MoveToOuterDisposeScope();
    }

    /// <summary>The attention itself, without projections. Differentiable. Collective when sharded.</summary>
    /// <param name="q">Queries, [batch, length, heads, headDim]; float32, float64, bfloat16 or float16. Not
    /// disposed.</param>
    /// <param name="k">Keys, shaped like q.</param>
    /// <param name="v">Values, shaped like q.</param>
    /// <param name="pattern">Which keys every query sees.</param>
    /// <param name="sharding">Which rank holds which part of the sequence; null where this rank holds all of
    /// it.</param>
    /// <param name="lengths">Tokens of every complete sequence; the rest is padding, which gets zeros. Null where there
    /// is none.</param>
    /// <param name="bias">Added to the logits by distance; null for none. Its table gets its gradient.</param>
    /// <returns>Mixed heads, shaped like q. Owned by the caller.</returns>
    public static Tensor Attend(
        Tensor q,
        Tensor k,
        Tensor v,
        AttentionPattern pattern,
        ISequenceSharding? sharding = null,
        IReadOnlyList<long>? lengths = null,
        RelativePositionBias? bias = null
    )
    {
        ArgumentNullException.ThrowIfNull(q);
        ArgumentNullException.ThrowIfNull(k);
        ArgumentNullException.ThrowIfNull(v);
        ArgumentNullException.ThrowIfNull(pattern);
        if (q.dim() != 4 || !q.shape.SequenceEqual(k.shape) || !q.shape.SequenceEqual(v.shape))
        {
            throw new UserException(
                "Attention takes q, k and v of one shape [batch, length, heads, headDim], but was given "
                    + $"[{string.Join(", ", q.shape)}], "
                    + $"[{string.Join(", ", k.shape)}] and [{string.Join(", ", v.shape)}]."
            );
        }

        if (
            q.shape[1] == 0
            || q.dtype != k.dtype
            || q.dtype != v.dtype
            || q.dtype is not (ScalarType.Float32 or ScalarType.Float64 or ScalarType.BFloat16 or ScalarType.Float16)
        )
        {
            throw new UserException(
                "Attention takes q, k and v of at least one row and of one type, float32, float64, bfloat16 "
                    + $"or float16, but was given {q.shape[1]} rows of "
                    + $"{q.dtype}, {k.dtype} and {v.dtype}."
            );
        }

        bias?.CheckHeads(q.shape[2]);
        sharding ??= UnshardedSequence.Instance;
        if (lengths is not null)
            CheckLengths(lengths, q.shape[0], sharding.ShardOf(q.shape[1]));

        using var scope = NewDisposeScope();
        DilatedAttentionPlan plan = DilatedAttentionPlan.Create(q.shape, pattern, sharding, lengths, bias);
        (q, k, v) = (q.contiguous(), k.contiguous(), v.contiguous());
        Tensor output = bias is null
            ? DilatedAttentionFunction.apply(q, k, v, plan)
            : DilatedAttentionFunction.apply(q, k, v, plan, bias.Table);
        return output.MoveToOuterDisposeScope();
    }

    protected override void Dispose(bool disposing)
    {
        if (disposing && ownsPositions)
            positions?.Dispose();
        base.Dispose(disposing);
    }

    // [batch, length, dModel], in the scope of the caller.
    private Tensor Attend(Tensor input, IReadOnlyList<long>? lengths, DropoutContext? dropoutContext)
    {
        var (q, k, v) = Project(input, sharding.ShardOf(input.shape[1]));
        return Finish(Attend(q, k, v, pattern, sharding, lengths, bias?.Module).reshape(input.shape), dropoutContext);
    }

    private static void CheckLengths(IReadOnlyList<long> lengths, long batch, SequenceShard shard)
    {
        if (lengths.Count != batch || lengths.Any(rows => rows < 0 || rows > shard.TotalLength))
        {
            throw new UserException(
                $"lengths is [{string.Join(", ", lengths)}], but must have one number from 0 to "
                    + $"{shard.TotalLength} for each of the {batch} sequences."
            );
        }
    }

    private void CheckShape(Tensor input)
    {
        if (input.dim() != 3 || input.shape[2] != DModel)
        {
            throw new UserException(
                $"DilatedAttention takes [batch, length, {DModel}], but was given [{string.Join(", ", input.shape)}]."
            );
        }
    }

    private static RotaryPositions? CreatePositions(DilatedAttentionOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        return RotaryPositions.Create(options.Positions, options.HeadDim, options.Pattern.Schedule);
    }

    private static RelativePositionBias? CreateBias(DilatedAttentionOptions options) =>
        options.RelativePositionBias is { } buckets ? new RelativePositionBias(options.Heads, buckets) : null;

    private Tensor ProjectBack(Tensor attended) =>
        MixedPrecision.Apply(
            outputProjection,
            mergedHeadsNorm is null ? attended : MixedPrecision.Apply(mergedHeadsNorm, attended)
        );

    private Tensor SplitHeads(Tensor projected)
    {
        long[] shape = projected.shape;
        return projected.view(shape[0], shape[1], Heads, shape[2] / Heads);
    }

    // TorchSharp makes every module in a field a part of this module, and counts its parameters with this module's.
    // This wrapper hides a module that several layers share.
    private sealed record Unregistered<T>(T Module);
}
