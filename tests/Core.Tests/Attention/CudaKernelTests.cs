using LongNet.Core.Attention;
using LongNet.Core.Cuda;
using LongNet.Core.Native;
using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using LongNet.Core.Tests.Cuda;
using LongNet.TestKit;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

/// <summary>Our own kernels on a GPU, against tensor operations. Without a GPU the emulated ones are.</summary>
public class CudaKernelTests
{
    [Fact]
    public void Kernels_OnThisGpu_Compile()
    {
        NeedsGpu();
        Assert.SkipUnless(Nvrtc.IsPresent, Nvrtc.Missing);
        Assert.Null(CudaKernels.Problem(0));
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    public void MergeAndSum_RandomBlocks_MatchTensorOperations(ScalarType type)
    {
        CudaKernels kernels = Kernels();
        for (int seed = 0; seed < 40; seed++)
            KernelChecks.MergeAndSum(kernels, CUDA, type, seed);
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    public void Rotation_AnyHeadSize_MatchesComplexProducts(ScalarType type)
    {
        CudaKernels kernels = Kernels();
        foreach (long headDim in new[] { 2L, 6, 8, 20, 64 })
        {
            KernelChecks.Rotation(kernels, CUDA, type, headDim, strided: false);
            KernelChecks.Rotation(kernels, CUDA, type, headDim, strided: true);
        }
    }

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    public void Dropout_AnyChannels_HasTheMasksOfCounterDropout(ScalarType type)
    {
        CudaKernels kernels = Kernels();
        foreach (long channels in new[] { 1L, 7, 8, 64 })
            KernelChecks.Dropout(kernels, CUDA, type, sequences: 3, channels);
        KernelChecks.Dropout(kernels, CUDA, type, sequences: 403, channels: 3);
    }

    [Fact]
    public void Apply_DropoutOnTheGpu_HasTheMasksOfTheCpu()
    {
        NeedsGpu();
        using var scope = NewDisposeScope();
        var context = new DropoutContext(new RandomStream(7), [4, 9], SequenceShard.Complete(50));
        Tensor input = randn(2, 50, 24);
        Compare.AssertClose(
            CounterDropout.Apply(input.cuda(), 0.4, context, "site"),
            CounterDropout.Apply(input, 0.4, context, "site"),
            1e-6,
            "dropout"
        );
    }

    [Theory]
    [MemberData(nameof(CombinedBlockTests.Cases), MemberType = typeof(CombinedBlockTests))]
    public void Attend_TensorOperationsInPlaceOfKernels_MatchesOracle(string name, AttentionCase problem)
    {
        NeedsGpu();
        Assert.NotEmpty(name);
        // CudaAttentionTests has the kernels. This one tells whether they are to blame where those tests fail.
        CombinedBlockTests.Combined(new TensorBlockCombiner(), () => problem.AssertMatchesOracle(bfloat16, 4e-2, CUDA));
    }

    // More elements than 32 bits count bytes of, in the layout of long training.
    [Fact]
    public void Merge_LongSequence_MatchesTensorOperations()
    {
        CudaKernels kernels = Kernels();
        using var scope = NewDisposeScope();
        const long length = 1 << 20,
            heads = 12,
            headDim = 64;
        Tensor like = empty([1, length, heads, headDim], dtype: bfloat16, device: CUDA);
        BlockResult[] results =
        [
            .. new[] { new Branch(2048, 1), new Branch(length, 512) }.SelectMany(branch =>
                RowBlock
                    .OfBranch(branch, HeadOffsets.Interleaved, heads, RowRange.Whole(1, length))
                    .Select(block => new BlockResult(
                        block,
                        rand([block.Segments, heads, block.Rows, headDim], dtype: bfloat16, device: CUDA),
                        rand([block.Segments, heads, block.Rows], device: CUDA)
                    ))
            ),
        ];
        var (output, logSumExp) = new KernelBlockCombiner(kernels).Merge(like, results);
        var (expected, expectedLogSumExp) = new TensorBlockCombiner().Merge(like, results);
        foreach (long first in new[] { 0, length / 2, length - 4096 })
        {
            Compare.AssertClose(
                output.narrow(1, first, 4096),
                expected.narrow(1, first, 4096),
                KernelChecks.Tolerance(bfloat16),
                $"rows from {first}"
            );
            Compare.AssertClose(
                logSumExp.narrow(1, first, 4096),
                expectedLogSumExp.narrow(1, first, 4096),
                1e-5,
                $"weights from {first}"
            );
        }
    }

    private static CudaKernels Kernels()
    {
        NeedsGpu();
        Assert.SkipUnless(CudaKernels.IsAvailable(0), CudaKernels.Problem(0) ?? "");
        return CudaKernels.Of(0)!;
    }

    private static void NeedsGpu() =>
        Assert.SkipUnless(
            LibTorch.HasCudaDevice,
            "there is no CUDA device, or the loaded libtorch is not built for CUDA"
        );
}
