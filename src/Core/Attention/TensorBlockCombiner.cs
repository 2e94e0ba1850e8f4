using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Tensor operations that compute what <see cref="KernelBlockCombiner"/> does, on any device and in any type: what the
/// kernels are held against, and how a pass with a combiner is tested without a GPU.
/// </summary>
internal sealed class TensorBlockCombiner : BlockCombiner
{
    public override (Tensor Output, Tensor LogSumExp) Merge(Tensor like, IReadOnlyList<BlockResult> results)
    {
        using var scope = NewDisposeScope();
        var merge = new LogSumExpMerge(like);
        foreach (BlockResult result in results)
            merge.Merge(result.Block, result.Values, result.LogSumExp!);
        return (merge.Output.to(like.dtype).MoveToOuterDisposeScope(), merge.LogSumExp.MoveToOuterDisposeScope());
    }

    public override Tensor Sum(Tensor like, ScalarType type, IReadOnlyList<BlockResult> results)
    {
        using var scope = NewDisposeScope();
        Tensor sum = zeros(like.shape, dtype: LogSumExpMerge.AccumulationType(like.dtype), device: like.device);
        foreach (BlockResult result in results)
            result.Block.View(sum).add_(result.Values, Scalars.One);
        return sum.to(type).MoveToOuterDisposeScope();
    }
}
