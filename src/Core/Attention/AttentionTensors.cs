using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>What attention is computed from.</summary>
/// <param name="Q">[batch, length, heads, headDim], contiguous.</param>
/// <param name="K">Shaped like the queries.</param>
/// <param name="V">Shaped like the queries.</param>
/// <param name="Table">Relative position biases, [buckets, heads], where the plan has buckets; else null. Not
/// owned.</param>
internal sealed record AttentionInputs(Tensor Q, Tensor K, Tensor V, Tensor? Table) : IDisposable
{
    /// <summary>Releases queries, keys and values.</summary>
    public void Dispose()
    {
        Q.Dispose();
        K.Dispose();
        V.Dispose();
    }
}

/// <summary>The keys and values of one sharded segment, from all ranks that share it.</summary>
/// <param name="Segment">How they are packed.</param>
/// <param name="Packed">One element after the other, [<see cref="ShardedSegment.TotalElements"/>].</param>
internal sealed record GatheredSegment(ShardedSegment Segment, Tensor Packed);

/// <summary>What forward leaves for backward, beside its inputs.</summary>
/// <param name="Output">[batch, length, heads, headDim], in the queries' type.</param>
/// <param name="LogSumExp">[batch, length, heads], at least float32.</param>
/// <param name="Gathered">The gathered segments of every branch of the plan.</param>
internal sealed record AttentionResult(
    Tensor Output,
    Tensor LogSumExp,
    IReadOnlyList<IReadOnlyList<GatheredSegment>> Gathered
) : IDisposable
{
    public void Dispose()
    {
        foreach (Tensor tensor in SavedAttention.Pack(this))
            tensor.Dispose();
    }
}

/// <summary>
/// Gradients of attention, in the type that they are accumulated in, at least float32, or where a
/// <see cref="BlockCombiner"/> summed all of them at once, in the compute type.
/// </summary>
/// <param name="Q">Shaped like the queries.</param>
/// <param name="K">Shaped like the keys.</param>
/// <param name="V">Shaped like the values.</param>
/// <param name="Table">Of the relative position biases; null where there are none, or their gradient is not
/// wanted.</param>
internal sealed record AttentionGradients(Tensor Q, Tensor K, Tensor V, Tensor? Table)
{
    /// <summary>Zeros, to be added to.</summary>
    public static AttentionGradients Zeros(DilatedAttentionPlan plan, AttentionInputs inputs)
    {
        ScalarType accumulate = LogSumExpMerge.AccumulationType(inputs.Q.dtype);
        return new AttentionGradients(
            zeros_like(inputs.Q, dtype: accumulate),
            zeros_like(inputs.K, dtype: accumulate),
            zeros_like(inputs.V, dtype: accumulate),
            plan.BiasNeedsGradient ? zeros_like(inputs.Table!, dtype: accumulate) : null
        );
    }

    /// <summary>Moves the tensors from the current dispose scope to the one around it.</summary>
    public AttentionGradients MoveToOuterDisposeScope()
    {
        foreach (Tensor? gradient in new[] { Q, K, V, Table })
            gradient?.MoveToOuterDisposeScope();
        return this;
    }
}

/// <summary>
/// The order of attention's tensors where they wait as a flat list between forward and backward, in autograd or in an
/// activation store.
/// </summary>
internal static class SavedAttention
{
    /// <summary>Output, log-sum-exp, then the gathered segments branch by branch.</summary>
    public static IReadOnlyList<Tensor> Pack(AttentionResult result) =>
        [
            result.Output,
            result.LogSumExp,
            .. result.Gathered.SelectMany(segments => segments.Select(segment => segment.Packed)),
        ];

    /// <summary>The inputs, the table among them where there is one, then the result.</summary>
    public static List<Tensor> Pack(AttentionInputs inputs, AttentionResult result)
    {
        List<Tensor> saved = [inputs.Q, inputs.K, inputs.V];
        if (inputs.Table is not null)
            saved.Add(inputs.Table);
        saved.AddRange(Pack(result));
        return saved;
    }

    /// <summary>Reverses <see cref="Pack(AttentionResult)"/>.</summary>
    public static AttentionResult UnpackResult(DilatedAttentionPlan plan, IEnumerable<Tensor> saved)
    {
        var remaining = new Queue<Tensor>(saved);
        return new AttentionResult(
            remaining.Dequeue(),
            remaining.Dequeue(),
            [
                .. plan.Branches.Select(branch =>
                    branch
                        .ShardedSegments.Select(segment => new GatheredSegment(segment, remaining.Dequeue()))
                        .ToArray()
                ),
            ]
        );
    }

    /// <summary>Reverses <see cref="Pack(AttentionInputs, AttentionResult)"/>.</summary>
    public static (AttentionInputs Inputs, AttentionResult Result) Unpack(
        DilatedAttentionPlan plan,
        IReadOnlyList<Tensor> saved
    )
    {
        Tensor? table = plan.Buckets is null ? null : saved[3];
        return (
            new AttentionInputs(saved[0], saved[1], saved[2], table),
            UnpackResult(plan, saved.Skip(table is null ? 3 : 4))
        );
    }
}
