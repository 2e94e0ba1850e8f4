using LongNet.Core.Attention;
using LongNet.Core.Attention.Kernels;
using LongNet.Core.Native;
using LongNet.Core.Numerics;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

/// <summary>
/// Attention on a GPU. What is expected is computed in float64 on the CPU, from the same rounded inputs: for whole
/// schedules by the oracle, for single kernels by the CPU's kernel, which other tests hold against the oracle.
/// </summary>
public class CudaAttentionTests
{
    private static readonly long[] HeadDims = [5, 8, 40, 64, 80, 256, 264];

    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    [InlineData(ScalarType.Float64)]
    public void Kernel_StridedBlocks_MatchesFloat64(ScalarType type)
    {
        NeedsGpu();
        // 45 and 77 rows are no multiples of 32; every second row and every second head of three segments.
        var queries = new RowBlock(1, 45, 2, 3, 91, new HeadGroup(1, 1, 2, 2));
        var keys = new RowBlock(0, 77, 1, 3, 91, new HeadGroup(0, 0, 2, 2));
        foreach (long headDim in HeadDims)
        {
            AssertMatchesFloat64(type, headDim, causal: true, queries, queries);
            AssertMatchesFloat64(type, headDim, causal: false, queries, keys);
        }
    }

    [Theory]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float16)]
    public void Kernel_LongBlocks_MatchesFloat64(ScalarType type)
    {
        NeedsGpu();
        // So many rows that cuDNN attends on Hopper; 200 and 333 are no multiples of its tiles.
        var queries = new RowBlock(1, 200, 2, 3, 420, new HeadGroup(1, 1, 2, 2));
        var keys = new RowBlock(0, 333, 1, 3, 420, new HeadGroup(0, 0, 2, 2));
        foreach (long headDim in HeadDims)
        {
            AssertMatchesFloat64(type, headDim, causal: true, queries, queries, length: 3 * 420);
            AssertMatchesFloat64(type, headDim, causal: false, queries, keys, length: 3 * 420);
        }
    }

    [Fact]
    public void Kernel_OfALongBlock_IsCudnnOnHopper()
    {
        NeedsGpu();
        using Tensor q = zeros([1, 1, 256, 64], dtype: ScalarType.BFloat16, device: CUDA);
        Assert.SkipWhen(!CudaDevice.IsHopper(q.device_index), "cuDNN is preferred on compute capability 9.0 only");
        Assert.IsType<CudaCudnnKernel>(AttentionKernels.For(q, 256));
        Assert.IsType<CudaFlashKernel>(AttentionKernels.For(q, 64));
    }

    [Theory]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float32)]
    public void Kernel_OneHeadAndOneRow_MatchesFloat64(ScalarType type)
    {
        NeedsGpu();
        var block = new RowBlock(3, 1, 1, 3, 91, new HeadGroup(0, 2, 1, 1));
        AssertMatchesFloat64(type, 8, causal: true, block, block);
    }

    [Theory]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float32)]
    public void Kernel_MoreSegmentsThanAGridHolds_MatchesFloat64(ScalarType type)
    {
        NeedsGpu();
        var block = new RowBlock(0, 2, 1, CudaScript.LargestBatch + 6, 2, new HeadGroup(0, 0, 1, 1));
        AssertMatchesFloat64(type, 8, causal: true, block, block, length: 2 * (CudaScript.LargestBatch + 6), heads: 1);
    }

    public static TheoryData<string, AttentionCase> Schedules()
    {
        var data = new TheoryData<string, AttentionCase>();
        Add("the paper's geometric schedule", 2, 256, 4, 64, (64, 1), (128, 2), (256, 4));
        Add("length no segment divides", 2, 150, 4, 40, (48, 1), (96, 2), (150, 4));
        Add("more sequences than segments", 5, 37, 4, 8, (16, 1), (32, 2));
        Add("dilation above the segment", 1, 24, 8, 80, (4, 6), (24, 2));
        Add("rows no branch keeps", 2, 32, 2, 8, (16, 4));
        Add("one row", 3, 1, 2, 8, (4, 1), (8, 2));
        Add("odd head size", 1, 60, 3, 5, (24, 1), (60, 3));
        return data;

        void Add(string name, long batch, long length, long heads, long headDim, params (long W, long R)[] branches) =>
            data.Add(
                name,
                new AttentionCase(
                    batch,
                    length,
                    heads,
                    headDim,
                    new AttentionPattern(
                        new SegmentSchedule(branches.Select(branch => new Branch(branch.W, branch.R))),
                        Causal: true
                    )
                )
            );
    }

    [Theory]
    [MemberData(nameof(Schedules))]
    public void Attend_Schedules_MatchOracle(string name, AttentionCase causal)
    {
        NeedsGpu();
        Assert.NotEmpty(name);
        AttentionCase[] problems =
        [
            causal,
            causal with
            {
                Options = causal.Options with { Causal = false },
            },
            causal with
            {
                Options = causal.Options with { HeadOffsets = HeadOffsets.Blocked },
            },
            causal with
            {
                Options = causal.Options with { Causal = false, HeadOffsets = HeadOffsets.Blocked },
            },
        ];
        foreach (AttentionCase problem in problems)
        {
            foreach (ScalarType type in new[] { float64, float32, bfloat16, float16 })
                problem.AssertMatchesOracle(type, Tolerance(type), CUDA);
        }
    }

    [Fact]
    public void Attend_WhileAnotherThreadCollectsGarbage_MatchesOracle()
    {
        NeedsGpu();
        var problem = new AttentionCase(
            2,
            96,
            4,
            16,
            new AttentionPattern(new SegmentSchedule([new Branch(32, 1), new Branch(96, 3)]), Causal: true)
        );
        using var stop = new CancellationTokenSource();
        var collector = new Thread(() =>
        {
            while (!stop.IsCancellationRequested)
            {
                GC.Collect();
                GC.WaitForPendingFinalizers();
            }
        });
        collector.Start();
        try
        {
            // Backward runs on libtorch's own threads here, where no dispose scope keeps what is returned.
            for (int round = 0; round < 30; round++)
                problem.AssertMatchesOracle(float32, Tolerance(float32), CUDA);
        }
        finally
        {
            stop.Cancel();
            collector.Join();
        }
    }

    [Fact]
    public void Module_ForwardAndBackward_MatchesTheCpu()
    {
        NeedsGpu();
        using var scope = NewDisposeScope();
        using var attention = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = 48,
                Heads = 4,
                Branches = [new(16, 1), new(64, 2)],
                Causal = true,
                Positions = PositionEncoding.XPos,
            }
        );
        Tensor x = randn(2, 64, 48);
        Tensor expected = attention.forward(x);
        BackwardPass.Run(expected.square().sum());
        Tensor[] gradients = [.. attention.parameters().Select(parameter => parameter.grad!.clone())];

        attention.to(CUDA);
        attention.zero_grad();
        Tensor output = attention.forward(x.cuda());
        BackwardPass.Run(output.square().sum());
        // Matrix products on a GPU sum in another order, and in float32 unless TF32 is asked for.
        Compare.AssertClose(output, expected, 1e-4, "output");
        foreach (var (parameter, gradient) in attention.parameters().Zip(gradients))
            Compare.AssertClose(parameter.grad!, gradient, 1e-4, "gradient of a parameter");
    }

    [Theory]
    [InlineData(ScalarType.Float32, false)]
    [InlineData(ScalarType.Float32, true)]
    [InlineData(ScalarType.BFloat16, true)]
    [InlineData(ScalarType.Float64, true)]
    public void Attend_BiasAndLengths_MatchOracle(ScalarType type, bool causal)
    {
        NeedsGpu();
        new AttentionCase(
            3,
            50,
            4,
            32,
            new AttentionPattern(new SegmentSchedule(new Branch(16, 1), new Branch(50, 3)), causal),
            Lengths: [37, 50, 5],
            Buckets: new RelativePositionBuckets(12, 20, Bidirectional: !causal)
        ).AssertMatchesOracle(type, Tolerance(type), CUDA);
    }

    [Fact]
    public void Decode_TokenByToken_EqualsForward()
    {
        NeedsGpu();
        using var scope = NewDisposeScope();
        using var attention = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = 64,
                Heads = 2,
                Branches = [new(16, 1), new(64, 2)],
                Causal = true,
                Positions = PositionEncoding.XPos,
            }
        );
        attention.to(CUDA);
        Tensor x = randn([2, 40, 64], device: CUDA);
        using KeyValueCache cache = attention.CreateCache(2, 40);
        var parts = new List<Tensor> { attention.Decode(x.narrow(1, 0, 21), cache) };
        while (cache.Length < 40)
            parts.Add(attention.Decode(x.narrow(1, cache.Length, 1), cache));
        Compare.AssertClose(cat(parts, 1), attention.forward(x), Tolerance(ScalarType.Float32), "rows");
    }

    [Theory]
    [InlineData(ScalarType.BFloat16, 64, typeof(CudaFlashKernel))]
    [InlineData(ScalarType.Float32, 64, typeof(CudaEfficientKernel))]
    [InlineData(ScalarType.BFloat16, 264, typeof(CudaEfficientKernel))]
    [InlineData(ScalarType.Float64, 64, typeof(MathKernel))]
    public void Kernel_ByTypeAndHeadSize_IsChosen(ScalarType type, long headDim, Type kernel)
    {
        NeedsGpu();
        using Tensor q = zeros([1, 1, 1, headDim], dtype: type, device: CUDA);
        Assert.SkipWhen(
            kernel == typeof(CudaFlashKernel) && !CudaDevice.IsAmpereOrNewer(q.device_index),
            "FlashAttention needs compute capability 8.0"
        );
        Assert.IsType(kernel, AttentionKernels.For(q, q.shape[2]));
    }

    // Rounding of the type, as on the CPU; float32 besides takes three products of TF32 for one, and a base-2
    // exponential.
    private static double Tolerance(ScalarType type) =>
        type switch
        {
            ScalarType.Float64 => 1e-12,
            ScalarType.Float32 => 1e-4,
            ScalarType.Float16 => 5e-3,
            _ => 4e-2,
        };

    // Forward with its log-sum-exp; backward as a mixture calls it, with the output and log-sum-exp of more than this
    // block.
    private static void AssertMatchesFloat64(
        ScalarType type,
        long headDim,
        bool causal,
        RowBlock queries,
        RowBlock keys,
        long length = 3 * 91,
        long heads = 4
    )
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(7);
        Tensor q = Random(),
            k = Random(),
            v = Random(),
            gradient = Random();
        double tolerance = Tolerance(type);
        string problem = $"{type}, {headDim} channels, {(causal ? "causal" : "bidirectional")}";

        var (output, logSumExp) = AttentionKernels.Forward(On(queries, q), On(keys, k), On(keys, v), causal);
        var (expected, expectedLogSumExp) = AttentionKernels.Forward(
            Exact(queries, q),
            Exact(keys, k),
            Exact(keys, v),
            causal
        );
        Assert.Equal(type, output.dtype);
        Assert.Equal(type == float64 ? float64 : float32, logSumExp.dtype);
        Compare.AssertClose(output, expected, tolerance, $"output of {problem}");
        Compare.AssertClose(
            logSumExp,
            expectedLogSumExp,
            type == float64 ? tolerance : 1e-4,
            $"log-sum-exp of {problem}",
            floor: 1
        );

        // Another branch of equal weight whose output is 0, in a [batch, length, heads] layout like the mixture's.
        Tensor mixture = expected.div(2).to(type);
        Tensor mixtureLogSumExp = expectedLogSumExp.add(Math.Log(2));
        Tensor strided = mixtureLogSumExp.to(logSumExp.dtype).transpose(1, 2).contiguous().transpose(1, 2).to(CUDA);
        var actual = AttentionKernels.Backward(
            On(queries, gradient),
            On(queries, q),
            On(keys, k),
            On(keys, v),
            mixture.to(CUDA),
            strided,
            causal
        );
        var exact = AttentionKernels.Backward(
            Exact(queries, gradient),
            Exact(queries, q),
            Exact(keys, k),
            Exact(keys, v),
            mixture.to(float64),
            mixtureLogSumExp,
            causal
        );
        Compare.AssertClose(actual.Q, exact.Q, tolerance, $"gradient of q of {problem}", floor: 0.1);
        Compare.AssertClose(actual.K, exact.K, tolerance, $"gradient of k of {problem}", floor: 0.1);
        Compare.AssertClose(actual.V, exact.V, tolerance, $"gradient of v of {problem}", floor: 0.1);
        Assert.Equal(type, actual.Q.dtype);

        Tensor Random() => randn([1, length, heads, headDim], dtype: float64, generator: generator).to(type);

        Tensor On(RowBlock block, Tensor tensor) => block.View(tensor.to(CUDA));

        Tensor Exact(RowBlock block, Tensor tensor) => block.View(tensor.to(float64));
    }

    private static void NeedsGpu() =>
        Assert.SkipUnless(
            LibTorch.HasCudaDevice,
            "there is no CUDA device, or the loaded libtorch is not built for CUDA"
        );
}
