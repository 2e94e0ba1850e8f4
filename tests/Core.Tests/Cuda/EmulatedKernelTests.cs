using LongNet.Core.Attention;
using LongNet.Core.Cuda;
using LongNet.Core.Tests.Attention;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Cuda;

/// <summary>The kernels' source, run on the CPU.</summary>
public class EmulatedKernelTests
{
    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    public void MergeAndSum_RandomBlocks_MatchTensorOperations(ScalarType type)
    {
        EmulatedKernels kernels = EmulatedKernels.Get();
        int[] blocks = [.. Enumerable.Range(0, 60).Select(seed => KernelChecks.MergeAndSum(kernels, CPU, type, seed))];
        Assert.Contains(0, blocks);
        Assert.Contains(blocks, count => count is > 0 and <= BlockTable.Length);
        Assert.Contains(blocks, count => count > 2 * BlockTable.Length);
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    public void Rotation_AnyHeadSize_MatchesComplexProducts(ScalarType type)
    {
        EmulatedKernels kernels = EmulatedKernels.Get();
        foreach (long headDim in new[] { 2L, 6, 8, 20, 64 })
        {
            KernelChecks.Rotation(kernels, CPU, type, headDim, strided: false);
            KernelChecks.Rotation(kernels, CPU, type, headDim, strided: true);
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    public void Dropout_AnyChannels_HasTheMasksOfCounterDropout(ScalarType type)
    {
        EmulatedKernels kernels = EmulatedKernels.Get();
        foreach (long channels in new[] { 1L, 7, 8, 64 })
            KernelChecks.Dropout(kernels, CPU, type, sequences: 3, channels);
        // More sequences than one launch has keys for.
        KernelChecks.Dropout(kernels, CPU, type, sequences: 403, channels: 3);
    }

    [Theory]
    [MemberData(nameof(CombinedBlockTests.Cases), MemberType = typeof(CombinedBlockTests))]
    public void Attend_WithKernels_MatchesOracle(string name, AttentionCase problem)
    {
        Assert.NotEmpty(name);
        CombinedBlockTests.Combined(new KernelBlockCombiner(EmulatedKernels.Get()), () =>
        {
            // Rounding of the types, as without the kernels.
            problem.AssertMatchesOracle(float32, 1e-5);
            problem.AssertMatchesOracle(bfloat16, 4e-2);
        });
    }

    [Fact]
    public void Divisor_AnyNumbers_DividesAsIntegersDo()
    {
        var random = new Random(1);
        int[] edges = [1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257, 65535, 65536, int.MaxValue - 1, int.MaxValue];
        for (int round = 0; round < 20000; round++)
        {
            int divisor = round % 3 == 0 ? edges[random.Next(edges.Length)] : 1 + random.Next(1 << random.Next(1, 31));
            long quotient = random.NextInt64(int.MaxValue / divisor + 1L);
            foreach (long near in new[] { -1L, 0, 1 })
            {
                long dividend = Math.Clamp(quotient * divisor + near, 0, int.MaxValue);
                Assert.Equal(dividend / divisor, new KernelDivisor(divisor).Divide((int)dividend));
            }

            Assert.Equal(int.MaxValue / divisor, new KernelDivisor(divisor).Divide(int.MaxValue));
        }
    }
}
