using static TorchSharp.torch;

namespace LongNet.Core.Numerics;

/// <summary>The 2-norm with a float64 accumulator, without a float64 copy of the complete tensor.</summary>
internal static class VectorNorm
{
    // The operator copies what it is given to float64: 32 MB at a time.
    private const long PieceElements = 1 << 22;

    // TorchScript knows dtypes by number only: 7 is float64.
    private static readonly TorchScriptModule Operator = new(
        """
        def norm(x: Tensor) -> Tensor:
            return torch.linalg_vector_norm(x, 2, None, False, dtype=7)
        """
    );

    /// <param name="tensor">Any shape, floating point. Not disposed.</param>
    /// <returns>The root of the sum of squares of all elements.</returns>
    public static double Of(Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        long elements = tensor.NumberOfElements;
        if (elements <= PieceElements)
            return OfPiece(tensor);
        Tensor flat = tensor.detach().reshape(-1);
        double squares = 0;
        for (long start = 0; start < elements; start += PieceElements)
        {
            using Tensor piece = flat.narrow(0, start, Math.Min(PieceElements, elements - start));
            double norm = OfPiece(piece);
            squares += norm * norm;
        }

        return Math.Sqrt(squares);
    }

    private static double OfPiece(Tensor tensor)
    {
        using var result = (Tensor)Operator.Invoke("norm", tensor)!;
        return result.item<double>();
    }
}
