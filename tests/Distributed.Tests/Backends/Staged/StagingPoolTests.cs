using LongNet.Distributed.Backends.Staged;
using static TorchSharp.torch;

namespace LongNet.Distributed.Tests.Backends.Staged;

public class StagingPoolTests
{
    [Fact]
    public void Take_OfAReturnedBuffersType_IsTheSameMemory()
    {
        using var scope = NewDisposeScope();
        using var pool = new StagingPool();
        Tensor tensor = zeros(3000);
        StagingBuffer first = pool.Take(tensor, 3000);
        pool.Return(first);
        Assert.Same(first, pool.Take(tensor, 2000));
        Assert.NotSame(first, pool.Take(tensor, 2000));
    }

    [Theory]
    [InlineData(3001, ScalarType.Float32)]
    [InlineData(1400, ScalarType.Float32)]
    [InlineData(3000, ScalarType.BFloat16)]
    public void Take_OfAnotherSizeOrType_IsOtherMemory(long elements, ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        using var pool = new StagingPool();
        StagingBuffer first = pool.Take(zeros(3000), 3000);
        pool.Return(first);
        StagingBuffer other = pool.Take(zeros(1, dtype: dtype), elements);
        Assert.NotSame(first, other);
        using Tensor content = other.First(elements);
        Assert.Equal([elements], content.shape);
        Assert.Equal(dtype, content.dtype);
    }

    [Fact]
    public void Take_OfNoElements_HasRoomForNone()
    {
        using var scope = NewDisposeScope();
        using var pool = new StagingPool();
        using Tensor content = pool.Take(zeros(0), 0).First(0);
        Assert.Equal([0], content.shape);
    }
}
