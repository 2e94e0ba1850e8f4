using LongNet.Core.Cuda;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// One kernel over all rows, which finds the blocks that keep a row by the same arithmetic as their views. Accumulates
/// in float32.
/// </summary>
/// <param name="kernels">Those of the device.</param>
internal sealed class KernelBlockCombiner(KernelModule kernels) : BlockCombiner
{
    public override (Tensor Output, Tensor LogSumExp) Merge(Tensor like, IReadOnlyList<BlockResult> results)
    {
        using var scope = NewDisposeScope();
        var (output, logSumExp) = Combine("merge", like, like.dtype, results, mixes: true);
        return (output.MoveToOuterDisposeScope(), logSumExp!.MoveToOuterDisposeScope());
    }

    public override Tensor Sum(Tensor like, ScalarType type, IReadOnlyList<BlockResult> results)
    {
        using var scope = NewDisposeScope();
        return Combine("sum", like, type, results, mixes: false).Result.MoveToOuterDisposeScope();
    }

    // As many blocks as a kernel's parameters hold at once; the next launch begins with what the last one left in
    // float32.
    private (Tensor Result, Tensor? LogSumExp) Combine(
        string operation,
        Tensor like,
        ScalarType type,
        IReadOnlyList<BlockResult> results,
        bool mixes
    )
    {
        Tensor? start = null,
            startLogSumExp = null;
        for (int first = 0; ; first += BlockTable.Length)
        {
            int count = Math.Min(BlockTable.Length, results.Count - first);
            bool last = first + count == results.Count;
            Tensor result = empty(like.shape, dtype: last ? type : ScalarType.Float32, device: like.device);
            Tensor? logSumExp = mixes ? empty(like.shape[..3], dtype: ScalarType.Float32, device: like.device) : null;
            Launch(
                operation,
                like.dtype,
                results.Skip(first).Take(count),
                (result, logSumExp),
                (start, startLogSumExp)
            );
            if (last)
                return (result, logSumExp);
            (start, startLogSumExp) = (result, logSumExp);
        }
    }

    private void Launch(
        string operation,
        ScalarType type,
        IEnumerable<BlockResult> blocks,
        (Tensor Values, Tensor? LogSumExp) result,
        (Tensor? Values, Tensor? LogSumExp) start
    )
    {
        long[] shape = result.Values.shape;
        long channels = shape[3],
            groups = KernelModule.GroupsOf(channels),
            threads = shape[0] * shape[1] * shape[2] * groups;
        var parameters = new BlockKernelParameters
        {
            Result = kernels.AddressOf(result.Values),
            LogSumExp = AddressOf(result.LogSumExp),
            StartResult = AddressOf(start.Values),
            StartLogSumExp = AddressOf(start.LogSumExp),
            Threads = (int)threads,
            Channels = (int)channels,
            Heads = new KernelDivisor(shape[2]),
            Groups = new KernelDivisor(groups),
        };
        bool aligned =
            channels % KernelModule.GroupSize == 0
            && KernelModule.IsAligned(parameters.Result)
            && KernelModule.IsAligned(parameters.StartResult);
        var used = new List<Tensor>();
        foreach (BlockResult block in blocks)
        {
            Tensor values = Dense(block.Values, type);
            Tensor? logSumExp = block.LogSumExp?.to(ScalarType.Float32);
            used.Add(values);
            if (logSumExp is not null)
                used.Add(logSumExp);
            BlockEntry entry = Entry(block.Block, channels, values, logSumExp);
            aligned &= KernelModule.IsAligned(entry.Values, entry.ValueSegment, entry.ValueHead, entry.ValueRow);
            parameters.Blocks[parameters.Count++] = entry;
        }

        string kernel =
            $"{operation}_{KernelModule.NameOf(type)}_{KernelModule.NameOf(result.Values.dtype)}"
            + (aligned ? "_aligned" : "");
        kernels.Launch(kernel, threads, ref parameters);
        GC.KeepAlive(used);
        GC.KeepAlive(result);
        GC.KeepAlive(start);
    }

    private nint AddressOf(Tensor? tensor) => tensor is null ? 0 : kernels.AddressOf(tensor);

    private static Tensor Dense(Tensor values, ScalarType type)
    {
        Tensor typed = values.dtype == type ? values : values.to(type);
        return typed.stride(-1) == 1 ? typed : typed.contiguous();
    }

    private BlockEntry Entry(RowBlock block, long channels, Tensor values, Tensor? logSumExp)
    {
        long[] shape = [block.Segments, block.Group.Heads, block.Rows, channels];
        if (!values.shape.AsSpan().SequenceEqual(shape))
            throw new ArgumentException(
                $"The result of a block is [{string.Join(", ", values.shape)}], not [{string.Join(", ", shape)}]."
            );
        long[] valueStrides = values.stride(),
            logSumExpStrides = logSumExp?.stride() ?? [0, 0, 0];
        HeadGroup group = block.Group;
        return new BlockEntry
        {
            Values = kernels.AddressOf(values),
            LogSumExp = AddressOf(logSumExp),
            ValueSegment = Stride(valueStrides, 0),
            ValueHead = Stride(valueStrides, 1),
            ValueRow = Stride(valueStrides, 2),
            LogSumExpSegment = Stride(logSumExpStrides, 0),
            LogSumExpHead = Stride(logSumExpStrides, 1),
            LogSumExpRow = Stride(logSumExpStrides, 2),
            FirstRow = (int)block.FirstRow,
            Rows = (int)block.Rows,
            Segments = (int)block.Segments,
            FirstHead = (int)group.FirstHead,
            HeadSpan = (int)((group.Heads - 1) * HeadStride(group) + 1),
            OffsetStride = (int)group.OffsetStride,
            // Whatever the distance is, there is only one.
            SegmentStride = new KernelDivisor(block.Segments == 1 ? int.MaxValue : block.SegmentStride),
            RowStride = new KernelDivisor(block.Rows == 1 ? int.MaxValue : block.RowStride),
            HeadStride = new KernelDivisor(HeadStride(group)),
        };

        // Along an axis of one element the stride may be anything.
        long Stride(long[] strides, int axis) => shape[axis] == 1 ? 0 : strides[axis];
    }

    private static long HeadStride(HeadGroup group) => group.Heads == 1 ? 1 : group.HeadStride;
}
