using LongNet.Core.Numerics;
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
/// row that no branch of a head keeps gets 0 from that head.
/// </remarks>
public sealed class DilatedAttention : Module<Tensor, Tensor>
{
    private readonly Linear queryProjection,
        keyProjection,
        valueProjection,
        outputProjection;
    private readonly DilatedAttentionOptions options;
    private readonly ISequenceSharding exchange;
    private readonly RotaryPositions? positions;
    private readonly Unregistered<RelativePositionBias>? bias;
    private readonly LayerNorm? mixedHeadsNorm;
    private readonly long heads;
    private readonly double dropout;
    private readonly bool ownsPositions;

    /// <summary>Several branches, mixed.</summary>
    /// <param name="dModel">Channels of input and output; a multiple of <paramref name="numHeads"/>.</param>
    /// <param name="numHeads">Number of heads.</param>
    /// <param name="dilationRates">r of every branch.</param>
    /// <param name="segmentSizes">w of every branch; as many.</param>
    /// <param name="dropout">Probability of dropping an element of the attention output in training mode.</param>
    /// <param name="causal">Whether a row sees only itself and earlier rows.</param>
    /// <param name="useXpos">Whether queries and keys carry their positions by
    /// <see cref="RotaryPositions.XPos"/>.</param>
    /// <param name="useRelPosBias">Whether logits have a learned bias by distance and head:
    /// <see cref="RelativePositionBias"/>.</param>
    /// <param name="headOffsets">Which rows of a segment each head keeps.</param>
    /// <param name="mixingGradient">Whether the mixing weights have a gradient.</param>
    /// <param name="exchange">
    /// Where the sequence lives: null when all of it is here, else what finds the keys of other shards. With an
    /// exchange, forward and backward are collective. This is the <c>Distributed</c> flag of the original
    /// documentation.
    /// </param>
    /// <param name="useRope">Whether queries and keys carry their positions by <see cref="RotaryPositions.Rope"/>; not
    /// with xPos.</param>
    /// <param name="subLayerNorm">Whether the mixed heads are normalized before the output projection (sub-LN,
    /// arXiv:2210.06423).</param>
    /// <exception cref="UserException">Heads do not divide the channels, lists of different lengths, or a value out of
    /// range.</exception>
    public DilatedAttention(
        long dModel,
        long numHeads,
        IReadOnlyList<long> dilationRates,
        IReadOnlyList<long> segmentSizes,
        double dropout = 0.0,
        bool causal = false,
        bool useXpos = false,
        bool useRelPosBias = false,
        HeadOffsets headOffsets = HeadOffsets.Interleaved,
        MixingGradient mixingGradient = MixingGradient.Exact,
        ISequenceSharding? exchange = null,
        bool useRope = false,
        bool subLayerNorm = false
    )
        : this(
            dModel,
            numHeads,
            new DilatedAttentionOptions(
                SegmentSchedule.FromLists(segmentSizes, dilationRates),
                causal,
                headOffsets,
                mixingGradient
            ),
            dropout,
            Positions(HeadDim(dModel, numHeads), useXpos, useRope, segmentSizes, dilationRates),
            exchange,
            useRelPosBias
                ? new RelativePositionBias(
                    numHeads,
                    new RelativePositionBuckets(
                        RelativePositionBuckets.DefaultCount,
                        RelativePositionBuckets.DefaultMaxDistance,
                        !causal
                    )
                )
                : null,
            subLayerNorm
        )
    {
        ownsPositions = true;
        if (bias is not null)
            register_module("relative_position", bias.Module);
    }

    /// <summary>One branch, as in the original documentation.</summary>
    /// <inheritdoc cref="DilatedAttention(long, long, IReadOnlyList{long}, IReadOnlyList{long}, double, bool, bool, bool,
    /// HeadOffsets, MixingGradient, ISequenceSharding?, bool, bool)"/>
    /// <param name="dModel">Channels of input and output.</param>
    /// <param name="numHeads">Number of heads.</param>
    /// <param name="dilationRate">r, the distance between kept rows.</param>
    /// <param name="segmentSize">w, the rows per segment.</param>
    public DilatedAttention(
        long dModel,
        long numHeads,
        long dilationRate,
        long segmentSize,
        double dropout = 0.0,
        bool causal = false,
        bool useXpos = false,
        bool useRelPosBias = false,
        HeadOffsets headOffsets = HeadOffsets.Interleaved,
        ISequenceSharding? exchange = null,
        bool useRope = false,
        bool subLayerNorm = false
    )
        : this(
            dModel,
            numHeads,
            [dilationRate],
            [segmentSize],
            dropout,
            causal,
            useXpos,
            useRelPosBias,
            headOffsets,
            MixingGradient.Exact,
            exchange,
            useRope,
            subLayerNorm
        ) { }

    /// <summary>For models: options as one value, and one <see cref="RotaryPositions"/> for all layers.</summary>
    /// <param name="dModel">Channels of input and output; a multiple of <paramref name="numHeads"/>.</param>
    /// <param name="numHeads">Number of heads.</param>
    /// <param name="options">Schedule, causality, head offsets, mixing gradient.</param>
    /// <param name="dropout">Probability of dropping an element of the attention output in training mode.</param>
    /// <param name="positions">For the same head size and schedule; null for none. Not owned.</param>
    /// <param name="exchange">Where the sequence lives; null when all of it is here.</param>
    /// <param name="bias">Of as many heads; null for none. Not owned: its parameter is not among this module's.</param>
    /// <param name="subLayerNorm">Whether the mixed heads are normalized before the output projection.</param>
    public DilatedAttention(
        long dModel,
        long numHeads,
        DilatedAttentionOptions options,
        double dropout,
        RotaryPositions? positions,
        ISequenceSharding? exchange,
        RelativePositionBias? bias = null,
        bool subLayerNorm = false
    )
        : base(nameof(DilatedAttention))
    {
        ArgumentNullException.ThrowIfNull(options);
        _ = HeadDim(dModel, numHeads);
        if (dropout is not (>= 0 and < 1))
            throw new UserException($"dropout is {dropout}, but must be at least 0 and below 1.");
        this.options = options;
        this.exchange = exchange ?? UnshardedSequence.Instance;
        this.dropout = dropout;
        heads = numHeads;
        this.positions = positions;
        bias?.CheckHeads(numHeads);
        this.bias = bias is null ? null : new(bias);

        queryProjection = Linear(dModel, dModel);
        keyProjection = Linear(dModel, dModel);
        valueProjection = Linear(dModel, dModel);
        outputProjection = Linear(dModel, dModel);
        register_module("q_proj", queryProjection);
        register_module("k_proj", keyProjection);
        register_module("v_proj", valueProjection);
        register_module("out_proj", outputProjection);
        if (subLayerNorm)
        {
            mixedHeadsNorm = LayerNorm(dModel);
            register_module("inner_attn_ln", mixedHeadsNorm);
        }
    }

    internal DilatedAttentionOptions Options => options;

    internal RotaryPositions? Rotation => positions;

    internal long Heads => heads;

    internal long DModel => queryProjection.weight!.shape[0];

    internal RelativePositionBias? Bias => bias?.Module;

    internal ISequenceSharding Exchange => exchange;

    /// <summary>The relative position biases outside autograd, [buckets, heads]; null without.</summary>
    internal Tensor? Table => bias?.Module.Table.detach();

    /// <summary>Where rows held here lie in the whole sequence.</summary>
    internal SequenceShard ShardOf(long rows) => exchange.ShardOf(rows);

    /// <summary>What attention over the rows held here consists of.</summary>
    internal DilatedAttentionPlan Plan(long batch, long rows) =>
        DilatedAttentionPlan.Create([batch, rows, heads, DModel / heads], options, exchange, null, bias?.Module);

    /// <summary>What comes before the attention itself, row by row.</summary>
    /// <param name="input">[batch, rows, dModel]: rows held here. Not disposed.</param>
    /// <param name="shard">All rows held here.</param>
    /// <param name="first">The first of them that is given.</param>
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

    /// <summary>What comes after the attention itself, row by row.</summary>
    /// <param name="attended">Mixed heads, [batch, rows, dModel]. Not disposed.</param>
    /// <param name="dropoutContext">Where these rows lie; null draws from TorchSharp's generator.</param>
    /// <returns>Shaped alike. In the scope of the caller.</returns>
    internal Tensor Finish(Tensor attended, DropoutContext? dropoutContext) =>
        ProjectBack(training ? CounterDropout.Apply(attended, dropout, dropoutContext, "attention") : attended);

    /// <inheritdoc cref="forward(Tensor, DropoutContext?)"/>
    public override Tensor forward(Tensor input) => forward(input, null);

    /// <summary>Attends. Collective among the shards of the sequence when an exchange was given.</summary>
    /// <param name="input">[batch, length, dModel]: the rows held here. Not disposed.</param>
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
    /// Attends to sequences of different lengths, padded at their ends: each as if it were alone. Padding is not looked
    /// at, gives zeros and gets no gradient. Collective among the shards of the sequence when an exchange was given.
    /// </summary>
    /// <param name="input">[batch, length, dModel]: the rows held here. Not disposed.</param>
    /// <param name="lengths">Rows of every whole sequence; the rest is padding. Sharded: the same list on all
    /// shards.</param>
    /// <param name="dropoutContext">As in <see cref="forward(Tensor, DropoutContext?)"/>.</param>
    /// <returns>[batch, length, dModel]. Owned by the caller.</returns>
    /// <exception cref="UserException">Not one length per sequence, or one out of range.</exception>
    public Tensor forward(Tensor input, IReadOnlyList<long> lengths, DropoutContext? dropoutContext = null)
    {
        ArgumentNullException.ThrowIfNull(input);
        ArgumentNullException.ThrowIfNull(lengths);
        BackwardPass.ThrowIfFailed();
        CheckShape(input);
        SequenceShard shard = exchange.ShardOf(input.shape[1]);
        CheckLengths(lengths, input.shape[0], shard);

        using var scope = NewDisposeScope();
        Tensor ends = tensor(lengths.ToArray(), dtype: ScalarType.Int64, device: input.device).view(-1, 1, 1);
        Tensor padding = tensor(shard.Positions()).to(input.device).view(1, -1, 1).ge(ends);
        Tensor zero = zeros([], dtype: input.dtype, device: input.device);

        // Zeros going in as well: what is not a number in the padding would reach the projections' gradients.
        Tensor attended = Attend(where(padding, zero, input), lengths, dropoutContext);
        return where(padding, zero, attended).MoveToOuterDisposeScope();
    }

    /// <summary>An empty cache for <see cref="Decode"/>.</summary>
    /// <param name="batch">Sequences.</param>
    /// <param name="maxLength">Most rows that will come; xPos refuses more than it can scale.</param>
    /// <returns>Owned by the caller.</returns>
    /// <exception cref="UserException">The attention is not causal, or its sequence is sharded.</exception>
    public KeyValueCache CreateCache(long batch, long maxLength)
    {
        if (exchange is not UnshardedSequence)
            throw new UserException("Decoding works on one rank: make the attention without an exchange.");
        return new KeyValueCache(options, batch, heads, queryProjection.weight!.shape[0] / heads, maxLength);
    }

    /// <summary>
    /// Attends the next rows of sequences whose earlier rows went through the same cache: one at a time, in chunks or
    /// all at once, with the result of the whole sequence to rounding. Without dropout, not differentiable.
    /// </summary>
    /// <param name="input">[batch, rows, dModel]. Not disposed.</param>
    /// <param name="cache">From <see cref="CreateCache"/>; takes up the rows. Not disposed.</param>
    /// <returns>[batch, rows, dModel]. Owned by the caller.</returns>
    /// <exception cref="UserException">Another batch than the cache's, or more rows than it was made for.</exception>
    public Tensor Decode(Tensor input, KeyValueCache cache)
    {
        ArgumentNullException.ThrowIfNull(input);
        ArgumentNullException.ThrowIfNull(cache);
        CheckShape(input);
        cache.CheckUse(options, input.shape[1]);
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        var (q, k, v) = Project(input, SequenceShard.Complete(cache.MaxLength).Slice(cache.Length, input.shape[1]));
        return ProjectBack(cache.Attend(q, k, v, bias?.Module).reshape(input.shape)).MoveToOuterDisposeScope();
    }

    /// <summary>The attention itself, without projections. Differentiable; collective when the exchange is.</summary>
    /// <param name="q">Queries, [batch, length, heads, headDim]; float32, float64, bfloat16 or float16. Not
    /// disposed.</param>
    /// <param name="k">Keys, shaped like q.</param>
    /// <param name="v">Values, shaped like q.</param>
    /// <param name="options">What is computed.</param>
    /// <param name="exchange">Where the sequence lives; null when all of it is here.</param>
    /// <param name="lengths">Rows of every whole sequence; the rest is padding, which gets zeros. Null where there is
    /// none.</param>
    /// <param name="bias">Added to the logits by distance; null for none. Its table gets its gradient.</param>
    /// <returns>Mixed heads, shaped like q. Owned by the caller.</returns>
    public static Tensor Attend(
        Tensor q,
        Tensor k,
        Tensor v,
        DilatedAttentionOptions options,
        ISequenceSharding? exchange = null,
        IReadOnlyList<long>? lengths = null,
        RelativePositionBias? bias = null
    )
    {
        ArgumentNullException.ThrowIfNull(q);
        ArgumentNullException.ThrowIfNull(k);
        ArgumentNullException.ThrowIfNull(v);
        ArgumentNullException.ThrowIfNull(options);
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
        exchange ??= UnshardedSequence.Instance;
        if (lengths is not null)
            CheckLengths(lengths, q.shape[0], exchange.ShardOf(q.shape[1]));

        using var scope = NewDisposeScope();
        DilatedAttentionPlan plan = DilatedAttentionPlan.Create(q.shape, options, exchange, lengths, bias);
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

    private static long HeadDim(long dModel, long numHeads) =>
        numHeads >= 1 && dModel >= 1 && dModel % numHeads == 0
            ? dModel / numHeads
            : throw new UserException(
                $"numHeads ({numHeads}) must divide dModel ({dModel}): choose a head count that divides it."
            );

    // [batch, length, dModel], in the scope of the caller.
    private Tensor Attend(Tensor input, IReadOnlyList<long>? lengths, DropoutContext? dropoutContext)
    {
        var (q, k, v) = Project(input, exchange.ShardOf(input.shape[1]));
        return Finish(Attend(q, k, v, options, exchange, lengths, bias?.Module).reshape(input.shape), dropoutContext);
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
        long dModel = queryProjection.weight!.shape[0];
        if (input.dim() != 3 || input.shape[2] != dModel)
        {
            throw new UserException(
                $"DilatedAttention takes [batch, length, {dModel}], but was given [{string.Join(", ", input.shape)}]."
            );
        }
    }

    private static RotaryPositions? Positions(
        long headDim,
        bool useXpos,
        bool useRope,
        IReadOnlyList<long> segmentSizes,
        IReadOnlyList<long> dilationRates
    ) =>
        (useXpos, useRope) switch
        {
            (true, true) => throw new UserException(
                "useXpos and useRope: xPos already rotates as RoPE does, so choose one of them."
            ),
            (true, false) => RotaryPositions.XPos(headDim, SegmentSchedule.FromLists(segmentSizes, dilationRates)),
            (false, true) => RotaryPositions.Rope(headDim),
            _ => null,
        };

    private Tensor ProjectBack(Tensor attended) =>
        MixedPrecision.Apply(
            outputProjection,
            mixedHeadsNorm is null ? attended : MixedPrecision.Apply(mixedHeadsNorm, attended)
        );

    private Tensor SplitHeads(Tensor projected)
    {
        long[] shape = projected.shape;
        return projected.view(shape[0], shape[1], heads, shape[2] / heads);
    }

    // TorchSharp makes every module that is a field a part of this one, and its parameters with it: twice, where it is
    // shared.
    private sealed record Unregistered<T>(T Module);
}
