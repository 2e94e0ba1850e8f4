using static TorchSharp.torch;

namespace LongNet.TestKit;

/// <summary>Comparisons of tensors that tell how far apart they are.</summary>
public static class Compare
{
    /// <summary>
    /// Largest absolute difference over the largest absolute expected value (over floor where that is larger).
    /// </summary>
    /// <param name="actual">Any dtype.</param>
    /// <param name="expected">The same shape.</param>
    /// <param name="floor">Expected values all below this count as this large, so that exact zeros can be
    /// compared.</param>
    public static double RelativeError(Tensor actual, Tensor expected, double floor = 1e-30)
    {
        using var scope = NewDisposeScope();
        using var noGradient = no_grad();
        if (!actual.shape.SequenceEqual(expected.shape))
            throw new ArgumentException(
                $"Shapes differ: [{string.Join(", ", actual.shape)}] and [{string.Join(", ", expected.shape)}]."
            );
        if (actual.NumberOfElements == 0)
            return 0;
        Tensor a = actual.cpu().to(float64),
            e = expected.cpu().to(float64);
        if (!a.isfinite().all().item<bool>())
            return double.NaN;
        double scale = Math.Max(e.abs().max().item<double>(), floor);
        return (a - e).abs().max().item<double>() / scale;
    }

    /// <summary>Fails unless the relative error is at most the tolerance (NaN fails).</summary>
    public static void AssertClose(Tensor actual, Tensor expected, double tolerance, string what, double floor = 1e-30)
    {
        double error = RelativeError(actual, expected, floor);
        if (!(error <= tolerance))
            throw new InvalidOperationException($"{what}: relative error {error:g3} is above {tolerance:g3}.");
    }

    /// <summary>Fails unless every number is within the tolerance of the expected one, relative to it.</summary>
    public static void AssertClose(
        IReadOnlyList<double> actual,
        IReadOnlyList<double> expected,
        double tolerance,
        string what
    )
    {
        if (expected.Count == 0 || actual.Count != expected.Count)
            throw new InvalidOperationException(
                $"{what}: there are {actual.Count} numbers, and {expected.Count} are expected."
            );
        for (int i = 0; i < expected.Count; i++)
        {
            // Turned around, so that NaN fails.
            if (!(Math.Abs(actual[i] - expected[i]) <= tolerance * Math.Abs(expected[i])))
                throw new InvalidOperationException(
                    $"{what}, number {i}: {actual[i]:R} is not {expected[i]:R} to {tolerance:g3}."
                );
        }
    }
}
