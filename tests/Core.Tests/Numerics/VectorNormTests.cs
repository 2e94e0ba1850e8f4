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
}
