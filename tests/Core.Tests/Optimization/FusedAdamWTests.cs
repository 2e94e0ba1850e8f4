using LongNet.Core.Optimization;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Optimization;

public class FusedAdamWTests
{
    [Fact]
    public void Step_SeveralTimes_EqualsTheFormula()
    {
        using var scope = NewDisposeScope();
        var options = new AdamWOptions(Beta1: 0.8, Beta2: 0.9, Epsilon: 1e-6, WeightDecay: 0.3);
        using var matrix = new Parameter(tensor(new[] { 1.0, -2.0 }, [1, 2]));
        using var vector = new Parameter(tensor(new[] { 0.5 }));
        Tensor matrixGradient = zeros(1, 2, dtype: float64),
            vectorGradient = zeros(1, dtype: float64);
        using var optimizer = new FusedAdamW(
            [("matrix", matrix), ("vector", vector)],
            [matrixGradient, vectorGradient],
            options
        );

        double[] expected = [1.0, -2.0, 0.5],
            mean = new double[3],
            square = new double[3];
        for (int step = 1; step <= 5; step++)
        {
            double[] gradient = [0.1 * step, -0.3, 2.0 / step];
            matrixGradient.copy_(tensor(gradient[..2], [1, 2]));
            vectorGradient.copy_(tensor(gradient[2..]));
            double rate = 0.01 * step;
            optimizer.Step(rate);
            for (int i = 0; i < 3; i++)
            {
                double decay = i < 2 ? options.WeightDecay : 0; // vectors do not decay
                expected[i] *= 1 - rate * decay;
                mean[i] = options.Beta1 * mean[i] + (1 - options.Beta1) * gradient[i];
                square[i] = options.Beta2 * square[i] + (1 - options.Beta2) * gradient[i] * gradient[i];
                double meanHat = mean[i] / (1 - Math.Pow(options.Beta1, step));
                double squareHat = square[i] / (1 - Math.Pow(options.Beta2, step));
                expected[i] -= rate * meanHat / (Math.Sqrt(squareHat) + options.Epsilon);
            }
        }

        // float64 rounding over five steps.
        double[] actual = [.. matrix.data<double>(), .. vector.data<double>()];
        for (int i = 0; i < 3; i++)
            Assert.Equal(expected[i], actual[i], 1e-13);
        Assert.Equal(
            ["step", "exp_avg.matrix", "exp_avg_sq.matrix", "exp_avg.vector", "exp_avg_sq.vector"],
            optimizer.State.Select(entry => entry.Name)
        );
        Assert.Equal(5f, optimizer.State[0].Value.item<float>());
    }
}
