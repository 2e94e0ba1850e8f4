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

    /// <summary>What of a block concerns the heads mixed.</summary>
    /// <returns>The block, and which of its heads they are.</returns>
    public (RowBlock Block, long First, long Count) Restrict(RowBlock block) => block.OfHeads(firstHead, Heads);

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
