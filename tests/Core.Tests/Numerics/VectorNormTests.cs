using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Numerics;

public class VectorNormTests
{
    [Fact]
    public void Of_ManyFloat32_AccumulatesInFloat64()
    {
        using var scope = NewDisposeScope();
        Tensor values = full([3, 1 << 20], 0.1, dtype: float32);
        double exact = Math.Sqrt(3.0 * (1 << 20)) * (float)0.1;

        // Worst case of three million float64 roundings, 3e6 · 2^-53 / 2; a float32 accumulator misses by about 1e-6.
        Assert.Equal(1.0, VectorNorm.Of(values) / exact, 2e-10);
    }

    [Fact]
    public void Of_MoreThanOnePiece_CountsEveryElementAndEveryNaN()
    {
        using var scope = NewDisposeScope();
        // Two pieces of 2^22 elements and a rest, strided.
        Tensor values = ones([3, (2 << 22) / 3 + 5], dtype: float32).t();
        // Each piece's norm and its square round once or twice.
        Assert.Equal(1.0, VectorNorm.Of(values) / Math.Sqrt(values.NumberOfElements), 1e-14);
        values[^1, 2] = tensor(float.NaN);
        Assert.True(double.IsNaN(VectorNorm.Of(values)));
    }
}
