using LongNet.Core.Attention.Kernels;
using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Merges attention results, one after the other, by their softmax denominators. Accumulates in float32 (float64 for
/// float64 inputs), whatever the compute type.
/// </summary>
internal sealed class LogSumExpMerge
{
    private readonly long firstHead;

    /// <param name="q">Gives shape, dtype and device. [batch, length, heads, headDim].</param>
    public LogSumExpMerge(Tensor q)
        : this(q, 0, q.shape[2]) { }

    /// <summary>Of some heads only.</summary>
    /// <param name="q">As above.</param>
    /// <param name="firstHead">First of them.</param>
    /// <param name="heads">How many.</param>
    public LogSumExpMerge(Tensor q, long firstHead, long heads)
    {
        this.firstHead = firstHead;
        Heads = heads;
        ScalarType accumulate = AccumulationType(q.dtype);
        Output = zeros([q.shape[0], q.shape[1], heads, q.shape[3]], dtype: accumulate, device: q.device);
        LogSumExp = full(
            [q.shape[0], q.shape[1], heads],
            Scalars.NegativeInfinity,
            dtype: accumulate,
            device: q.device
        );
    }

    /// <summary>How many heads are merged.</summary>
    public long Heads { get; }

    /// <summary>[batch, length, heads merged, headDim]; 0 in rows that nothing was merged into.</summary>
    public Tensor Output { get; }

    /// <summary>[batch, length, heads merged]; −∞ in rows that nothing was merged into.</summary>
    public Tensor LogSumExp { get; }

    public static ScalarType AccumulationType(ScalarType compute) =>
        compute == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;

    /// <summary>The heads of a block that are merged here.</summary>
    /// <returns>A block of these heads, possibly of none, and their place among the heads of the given one.</returns>
    public (RowBlock Block, long First, long Count) RestrictToHeads(RowBlock block) => block.OfHeads(firstHead, Heads);

    /// <summary>Lets a block's queries attend to keys, and merges the result into the block's rows.</summary>
    /// <param name="attention">Computes the attention.</param>
    /// <param name="block">Which rows and heads; no others than those merged.</param>
    /// <param name="q">[batch, length, heads, headDim], of all heads.</param>
    /// <param name="keys">[segments, heads, keys, headDim].</param>
    /// <param name="values">Likewise.</param>
    /// <param name="causal">Whether query i of the block sees keys 0 … i only.</param>
    /// <param name="keyOffset">How many keys lie before the one at the first query's position.</param>
    public void AttendAndMerge(
        BlockAttention attention,
        RowBlock block,
        Tensor q,
        Tensor keys,
        Tensor values,
        bool causal,
        long keyOffset
    )
    {
        using var scope = NewDisposeScope();
        var (output, logSumExp) = attention.Forward(block, block.View(q), keys, values, causal, keyOffset);
        Merge(block, output, logSumExp);
    }

    /// <summary>Merges a result into a block's rows.</summary>
    /// <param name="block">Which rows and heads; no others than those merged.</param>
    /// <param name="output">[segments, heads, rows, headDim].</param>
    /// <param name="logSumExp">[segments, heads, rows]; finite.</param>
    public void Merge(RowBlock block, Tensor output, Tensor logSumExp)
    {
        using var scope = NewDisposeScope();
        block = block with { Group = block.Group with { FirstHead = block.Group.FirstHead - firstHead } };
        Tensor total = block.ViewLogSumExp(LogSumExp);
        // exp(new) / (exp(total) + exp(new)); exactly 1 in a row that is still empty, where total is −∞.
        Tensor weight = logSumExp.sub(total).sigmoid_().unsqueeze(-1);
        block.View(Output).lerp_(output.to(Output.dtype), weight);
        total.copy_(total.logaddexp(logSumExp));
    }
}
