using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// Describes what ranks must agree about in a collective. The text is made when it is read; until then only shapes are
/// kept, no tensors.
/// </summary>
internal static class CollectiveSignature
{
    public static Func<string> Nothing { get; } = () => "";

    /// <param name="more">Appended to the text, e.g. ", from rank 0".</param>
    public static Func<string> Of(Tensor tensor, string more = "")
    {
        long[] shape = Shape(tensor);
        ScalarType dtype = tensor.dtype;
        return () => $"[{string.Join(", ", shape)}] {dtype}{more}";
    }

    public static Func<string> Of(Tensor tensor, ReduceOperation operation) => Of(tensor, $", {Term(operation)}");

    public static Func<string> Of(ScalarType dtype) => () => $"{dtype}";

    // A long list is represented by its length and a digest, which differs where any count does.
    public static Func<string> Of(IReadOnlyList<long> counts, ScalarType dtype, string more = "") =>
        () =>
            counts.Count <= 8
                ? $"[{string.Join(" + ", counts)}] {dtype}{more}"
                : $"[{counts.Sum()} in {counts.Count} parts, digest "
                    + $"{counts.Aggregate(17, (hash, count) => unchecked(hash * 31 + count.GetHashCode())):x8}] "
                    + $"{dtype}{more}";

    public static Func<string> Of(IReadOnlyList<long> counts, ScalarType dtype, ReduceOperation operation) =>
        Of(counts, dtype, $", {Term(operation)}");

    private static string Term(ReduceOperation operation) =>
        operation switch
        {
            ReduceOperation.Sum => "sum",
            ReduceOperation.Max => "max",
            ReduceOperation.Min => "min",
            _ => "average",
        };

    // Instead of Tensor.shape, which pins an array in a callback from native code and leaves a finalizer behind. That
    // takes longer than a small message.
    public static long[] Shape(Tensor tensor)
    {
        var shape = new long[tensor.dim()];
        for (int axis = 0; axis < shape.Length; axis++)
            shape[axis] = tensor.size(axis);
        return shape;
    }
}
