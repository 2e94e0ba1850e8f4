using static TorchSharp.torch;

namespace LongNet.Core.Numerics;

/// <summary>The 2-norm with a float64 accumulator, without a float64 copy of the tensor.</summary>
public static class VectorNorm
{
    // TorchScript knows dtypes by number only: 7 is float64.
    private static readonly TorchScriptModule Operator = new("""
        def norm(x: Tensor) -> Tensor:
            return torch.linalg_vector_norm(x, 2, None, False, dtype=7)
        """);

    /// <param name="tensor">Any shape, floating point. Not disposed.</param>
    /// <returns>The root of the sum of squares of all elements.</returns>
    public static double Of(Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        using var noGradient = no_grad();
        using var result = (Tensor)Operator.Invoke("norm", tensor)!;
        return result.item<double>();
    }
}
