using LongNet.Core.Attention.Kernels;
using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// The running mixture of attention results by their softmax denominators. Accumulates in float32 (float64 for float64
/// inputs), whatever the compute type.
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

    /// <summary>How many heads are mixed.</summary>
    public long Heads { get; }

    /// <summary>[batch, length, heads mixed, headDim]; 0 in rows that nothing was added to.</summary>
    public Tensor Output { get; }

    /// <summary>[batch, length, heads mixed]; −∞ in rows that nothing was added to.</summary>
    public Tensor LogSumExp { get; }

    public static ScalarType AccumulationType(ScalarType compute) =>
        compute == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32;

    /// <summary>The part of a block whose heads are mixed here.</summary>
    /// <returns>The block, and which of its heads they are.</returns>
    public (RowBlock Block, long First, long Count) Restrict(RowBlock block) => block.OfHeads(firstHead, Heads);

    /// <summary>Lets a block's queries attend to keys, and mixes the result into the block's rows.</summary>
    /// <param name="kernel">Computes the attention.</param>
    /// <param name="block">Which rows and heads; no others than those mixed.</param>
    /// <param name="q">[batch, length, heads, headDim], of all heads.</param>
    /// <param name="keys">[segments, heads, keys, headDim].</param>
    /// <param name="values">Likewise.</param>
    /// <param name="causal">Whether query i of the block sees keys 0 … i only.</param>
    /// <param name="keyOffset">How many keys lie before the one at the first query's position.</param>
    public void Attend(
        BranchAttention kernel,
        RowBlock block,
        Tensor q,
        Tensor keys,
        Tensor values,
        bool causal,
        long keyOffset
    )
    {
        using var scope = NewDisposeScope();
        var (output, logSumExp) = kernel.Forward(block, block.View(q), keys, values, causal, keyOffset);
        Add(block, output, logSumExp);
    }

    /// <summary>Mixes one attention result into the block's rows.</summary>
    /// <param name="block">Which rows and heads; no others than those mixed.</param>
    /// <param name="output">[segments, heads, rows, headDim].</param>
    /// <param name="logSumExp">[segments, heads, rows], finite.</param>
    public void Add(RowBlock block, Tensor output, Tensor logSumExp)
    {
        using var scope = NewDisposeScope();
        block = block with { Group = block.Group with { FirstHead = block.Group.FirstHead - firstHead } };
        Tensor total = block.ViewStatistic(LogSumExp);
        // exp(new) / (exp(total) + exp(new)); exactly 1 in a row that is still empty, where total is −∞.
        Tensor share = logSumExp.sub(total).sigmoid_().unsqueeze(-1);
        block.View(Output).lerp_(output.to(Output.dtype), share);
        total.copy_(total.logaddexp(logSumExp));
    }
}
