using LongNet.Distributed.Collectives;
using static TorchSharp.torch;

namespace LongNet.Distributed.Diagnostics;

/// <summary>
/// What ranks must agree about in a collective, in words. Made when someone asks: what is kept until then are numbers,
/// not tensors.
/// </summary>
internal static class CollectiveSignature
{
    public static Func<string> Nothing { get; } = () => "";

    /// <param name="more">What follows, e.g. ", sum".</param>
    public static Func<string> Of(Tensor tensor, string more = "")
    {
        long[] shape = Shape(tensor);
        ScalarType dtype = tensor.dtype;
        return () => $"[{string.Join(", ", shape)}] {dtype}{more}";
    }

    public static Func<string> Of(ScalarType dtype) => () => $"{dtype}";

    // Long lists are told by their length and a digest, which differs where any count does.
    public static Func<string> Of(IReadOnlyList<long> counts, ScalarType dtype, string more = "") =>
        () =>
            counts.Count <= 8
                ? $"[{string.Join(" + ", counts)}] {dtype}{more}"
                : $"[{counts.Sum()} in {counts.Count} parts, digest "
                    + $"{counts.Aggregate(17, (hash, count) => unchecked(hash * 31 + count.GetHashCode())):x8}] "
                    + $"{dtype}{more}";

    public static string Term(ReduceOperation operation) =>
        operation switch
        {
            ReduceOperation.Sum => "sum",
            ReduceOperation.Max => "max",
            ReduceOperation.Min => "min",
            _ => "average",
        };

    // Tensor.shape pins an array in a callback from native code and leaves a finalizer behind: longer than a small
    // message takes.
    public static long[] Shape(Tensor tensor)
    {
        var shape = new long[tensor.dim()];
        for (int axis = 0; axis < shape.Length; axis++)
            shape[axis] = tensor.size(axis);
        return shape;
    }
}
