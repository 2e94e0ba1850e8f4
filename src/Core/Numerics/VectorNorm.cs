using LongNet.Core.Devices;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Numerics;

/// <summary>The 2-norm with a float64 accumulator, without a float64 copy of the complete tensor.</summary>
internal static class VectorNorm
{
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
        using Tensor pieces = OfPieces(tensor);
        return Combine(DeviceRead.Doubles(pieces));
    }

    /// <summary>
    /// The norms of consecutive pieces of a tensor, which <see cref="Combine"/> makes one of. Does not wait for the
    /// tensor's device.
    /// </summary>
    /// <param name="tensor">As in <see cref="Of"/>.</param>
    /// <returns>[pieces], float64, on the tensor's device. Owned by the caller.</returns>
    public static Tensor OfPieces(Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        long elements = tensor.NumberOfElements,
            most = PieceElements(tensor.device_type);
        Tensor flat = tensor.detach().reshape(-1);
        var pieces = new List<Tensor>();
        for (long start = 0; start == 0 || start < elements; start += most)
        {
            using Tensor piece = flat.narrow(0, start, Math.Min(most, elements - start));
            pieces.Add((Tensor)Operator.Invoke("norm", piece)!);
        }

        return stack(pieces).MoveToOuterDisposeScope();
    }

    /// <summary>How many norms <see cref="OfPieces"/> returns.</summary>
    public static int PiecesOf(Tensor tensor)
    {
        ArgumentNullException.ThrowIfNull(tensor);
        long most = PieceElements(tensor.device_type);
        return checked((int)Math.Max(1, (tensor.NumberOfElements + most - 1) / most));
    }

    /// <summary>The norm of a tensor from those of its pieces.</summary>
    public static double Combine(ReadOnlySpan<double> pieces)
    {
        if (pieces.Length == 1)
            return pieces[0];
        double squares = 0;
        foreach (double norm in pieces)
            squares += norm * norm;
        return Math.Sqrt(squares);
    }

    // The operator copies what it is given to float64 on the CPU: 32 MB at a time. On a GPU it converts as it reads.
    private static long PieceElements(DeviceType device) => device == DeviceType.CPU ? 1 << 22 : 1 << 28;
}
