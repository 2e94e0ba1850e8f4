using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// The bias of the logits of one kernel call. It depends only on the distance of query and key, so it is kept as one
/// number per distance. A tile of logits reads it through a strided view, and no matrix of biases exists.
/// </summary>
/// <remarks>
/// Number x is the bias of all pairs (query i, key j) with j − i + queries − 1 = x. With the queries of a tile in
/// reverse order, x grows by one along both axes, so the tile is a view with strides 1 and 1.
/// </remarks>
internal sealed class PairBias
{
    private readonly Tensor values; // [heads, queries + keys − 1]
    private readonly Tensor? buckets;
    private readonly HeadGroup group;
    private readonly long queries;
    private readonly Tensor? gradient; // like values

    private PairBias(Tensor values, Tensor? gradient, Tensor? buckets, HeadGroup group, long queries)
    {
        this.values = values;
        this.gradient = gradient;
        this.buckets = buckets;
        this.group = group;
        this.queries = queries;
    }

    /// <summary>The bias of rows at one constant distance from each other.</summary>
    /// <param name="table">Biases, [buckets, heads of the layer]; null for a mask without biases.</param>
    /// <param name="rule">Maps distances to the table's buckets; null without a table.</param>
    /// <param name="group">The heads of the call.</param>
    /// <param name="dilation">Rows from one query, or key, to the next.</param>
    /// <param name="queries">Number of queries.</param>
    /// <param name="keys">Number of keys.</param>
    /// <param name="keyOffset">Number of keys before the one at the first query's row.</param>
    /// <param name="causal">Whether keys after a query are masked.</param>
    /// <param name="type">dtype of the logits.</param>
    /// <param name="device">Their device.</param>
    /// <param name="collectsGradient">Whether gradients will be added.</param>
    /// <returns>Its tensors are in the caller's dispose scope.</returns>
    public static PairBias Create(
        Tensor? table,
        RelativePositionBuckets? rule,
        HeadGroup group,
        long dilation,
        long queries,
        long keys,
        long keyOffset,
        bool causal,
        ScalarType type,
        Device device,
        bool collectsGradient
    )
    {
        using var scope = NewDisposeScope();
        long count = queries + keys - 1;
        Tensor? buckets = table is null
            ? null
            : rule!.Of(dilation * (keyOffset + queries - 1), -dilation, count, device);
        Tensor values = table is null
            ? zeros([group.Heads, count], dtype: type, device: device)
            : OfGroup(table, group).index_select(0, buckets!).to(type).t().contiguous();
        if (causal && keyOffset + queries < count)
        {
            // The distance keyOffset + queries − 1 − x is negative.
            values.narrow(1, keyOffset + queries, count - keyOffset - queries).fill_(Scalars.NegativeInfinity);
        }

        Tensor? gradient = collectsGradient && table is not null ? zeros_like(values) : null;
        return new PairBias(
            values.MoveToOuterDisposeScope(),
            gradient?.MoveToOuterDisposeScope(),
            buckets?.MoveToOuterDisposeScope(),
            group,
            queries
        );
    }

    /// <summary>The biases of a tile whose queries are in reverse order.</summary>
    /// <param name="firstHead">First head of the tile.</param>
    /// <param name="heads">Its heads.</param>
    /// <param name="firstQuery">First query of the tile.</param>
    /// <param name="count">Its queries.</param>
    /// <param name="keys">Its keys, the first ones of all.</param>
    /// <returns>[heads, count, keys], a view.</returns>
    public Tensor Tile(long firstHead, long heads, long firstQuery, long count, long keys) =>
        values.as_strided(
            [heads, count, keys],
            [values.shape[1], 1, 1],
            firstHead * values.shape[1] + queries - firstQuery - count
        );

    /// <summary>[heads, queries + keys − 1], contiguous. Owned by this.</summary>
    public Tensor Values => values;

    /// <summary>Zeros to which several workers add gradients, each in its own part.</summary>
    /// <param name="workers">Number of workers.</param>
    /// <returns>
    /// [workers, heads, queries + keys − 1]; null where no gradient is collected. Owned by the caller.
    /// </returns>
    public Tensor? NewGradients(long workers) =>
        gradient is null ? null : zeros([workers, .. values.shape], dtype: values.dtype, device: values.device);

    /// <summary>Adds the gradient of all numbers.</summary>
    /// <param name="ofValues">Shaped like <see cref="Values"/>.</param>
    public void AddGradient(Tensor ofValues) => gradient?.add_(ofValues, Scalars.One);

    /// <summary>Adds the gradient of a tile's logits.</summary>
    /// <param name="firstHead">First head of the tile.</param>
    /// <param name="firstQuery">First query of the tile.</param>
    /// <param name="logits">[heads, count, keys], queries in reverse order.</param>
    public void AddGradientOfTile(long firstHead, long firstQuery, Tensor logits)
    {
        if (gradient is null)
            return;
        using var scope = NewDisposeScope();
        long heads = logits.shape[0],
            count = logits.shape[1],
            keys = logits.shape[2],
            width = count + keys - 1;
        // Each row is shifted by one against the row before, so that equal distances are in one column.
        Tensor sheared = zeros([heads, count, width], dtype: logits.dtype, device: logits.device);
        sheared.as_strided([heads, count, keys], [count * width, width + 1, 1]).copy_(logits);
        gradient
            .narrow(0, firstHead, heads)
            .narrow(1, queries - firstQuery - count, width)
            .add_(sheared.sum(dim: 1), Scalars.One);
    }

    /// <summary>Adds the collected gradient to the table's.</summary>
    /// <param name="tableGradient">[buckets, heads of the layer], of the logits' dtype.</param>
    public void AddToTable(Tensor tableGradient)
    {
        if (gradient is null)
            return;
        using var scope = NewDisposeScope();
        OfGroup(tableGradient, group).index_add_(0, buckets!, gradient.t(), Scalars.One);
    }

    // [buckets, heads of the group], a view.
    private static Tensor OfGroup(Tensor table, HeadGroup group) =>
        table.as_strided(
            [table.shape[0], group.Heads],
            [table.stride(0), table.stride(1) * group.HeadStride],
            table.storage_offset() + group.FirstHead * table.stride(1)
        );
}
