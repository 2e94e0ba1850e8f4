using LongNet.Core.Attention;
using LongNet.Core.Attention.Kernels;
using LongNet.Core.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Trainer.Benchmarks;

/// <summary>One line of the benchmark: forward alone, and forward with backward.</summary>
/// <param name="Length">Rows of the sequence.</param>
/// <param name="Forward">Seconds of dilated attention.</param>
/// <param name="ForwardFloor">Seconds of libtorch's fused kernel on the same blocks, back to back, without
/// mixing.</param>
/// <param name="ForwardBare">Seconds of the kernel that dilated attention uses, likewise; the same where it is
/// libtorch's.</param>
/// <param name="Both">Seconds of dilated attention, forward and backward.</param>
/// <param name="BothFloor">Seconds of libtorch's kernel, forward and backward.</param>
/// <param name="BothBare">Seconds of the kernel used, forward and backward.</param>
/// <param name="Dense">Seconds of dense causal attention by libtorch's fused kernel; null where it was left
/// out.</param>
/// <param name="DenseBoth">Likewise, forward and backward.</param>
/// <param name="Flops">Floating-point operations of the kernel's products, forward.</param>
/// <param name="ForwardGrowth">Peak growth of the resident memory in forward, in bytes; null where unknown.</param>
/// <param name="QueryBytes">Size of the queries, in bytes.</param>
internal sealed record AttentionTimes(
    long Length,
    double Forward,
    double ForwardFloor,
    double ForwardBare,
    double Both,
    double BothFloor,
    double BothBare,
    double? Dense,
    double? DenseBoth,
    double Flops,
    long? ForwardGrowth,
    long QueryBytes
)
{
    // Backward recomputes the scores and has four products where forward has two.
    public const double BackwardFlops = 2.5;

    public double ForwardRatio => Forward / ForwardFloor;

    public double BothRatio => Both / BothFloor;

    public double ForwardOverhead => Forward / ForwardBare;

    public double BothOverhead => Both / BothBare;
}

/// <summary>Dilated attention against the kernel that it is made of, and against dense attention.</summary>
/// <param name="Device">Where it is measured.</param>
/// <param name="Heads">Heads.</param>
/// <param name="HeadDim">Channels per head.</param>
/// <param name="Type">Compute type.</param>
/// <param name="Schedule">Branches.</param>
/// <param name="Rounds">Times that each is measured; the shortest counts.</param>
/// <param name="LongestDense">Dense attention is left out for longer sequences.</param>
/// <param name="Biased">Whether dilated attention has a relative position bias; the bare kernels have none.</param>
internal sealed record AttentionBenchmark(
    BenchDevice Device,
    long Heads,
    long HeadDim,
    ScalarType Type,
    SegmentSchedule Schedule,
    int Rounds,
    long LongestDense,
    bool Biased
)
{
    public AttentionTimes Run(long length)
    {
        using var scope = NewDisposeScope();
        Tensor[] inputs =
        [
            .. Enumerable
                .Range(0, 4)
                .Select(_ => randn([1, length, Heads, HeadDim], dtype: Type, device: Device.Device)),
        ];
        Tensor q = inputs[0].requires_grad_(),
            k = inputs[1].requires_grad_(),
            v = inputs[2].requires_grad_(),
            cotangent = inputs[3];
        var options = new AttentionPattern(Schedule, Causal: true);
        RowBlock[] blocks =
        [
            .. DilatedAttentionPlan
                .Create(q.shape, options, UnshardedSequence.Instance)
                .Branches.SelectMany(branch => branch.LocalBlocks),
        ];

        IAttentionKernel libtorch = AttentionKernels.OfLibtorch(blocks[0].View(q)),
            used = AttentionKernels.For(blocks[0].View(q));
        using RelativePositionBias? bias = Biased
            ? new RelativePositionBias(
                Heads,
                new(
                    RelativePositionBuckets.DefaultCount,
                    RelativePositionBuckets.DefaultMaxDistance,
                    Bidirectional: false
                )
            )
            : null;
        bias?.to(Device.Device);

        long? growth = Measurement.PeakGrowth(Device, Forward);
        double[] times = Measurement.ShortestSeconds(
            Device,
            Rounds,
            [
                Forward,
                () => Bare(libtorch, backward: false),
                Both,
                () => Bare(libtorch, backward: true),
                .. used == libtorch
                    ? Array.Empty<Action>()
                    : [() => Bare(used, backward: false), () => Bare(used, backward: true)],
            ]
        );
        double[]? dense =
            length <= LongestDense
                ? Measurement.ShortestSeconds(Device, 1, () => Dense(backward: false), () => Dense(backward: true))
                : null;
        double flops = blocks.Sum(block => CausalFlops(block, HeadDim));
        return new AttentionTimes(
            length,
            times[0],
            times[1],
            used == libtorch ? times[1] : times[4],
            times[2],
            times[3],
            used == libtorch ? times[3] : times[5],
            dense?[0],
            dense?[1],
            flops,
            growth,
            length * Heads * HeadDim * q.ElementSize
        );

        void Forward()
        {
            using var noGradient = no_grad();
            DilatedAttention.Attend(q, k, v, options, bias: bias).Dispose();
        }

        void Both()
        {
            using var inner = NewDisposeScope();
            Tensor output = DilatedAttention.Attend(q, k, v, options, bias: bias);
            // What a layer's backward hands in is a gradient of the output's shape and type.
            BackwardPass.Run(output.mul(cotangent).sum());
            foreach (Tensor input in bias is null ? new[] { q, k, v } : [q, k, v, bias.Table])
            {
                input.grad!.Dispose();
                input.grad = null;
            }
        }

        void Bare(IAttentionKernel kernel, bool backward)
        {
            using var noGradient = no_grad();
            foreach (RowBlock block in blocks)
                Kernel(kernel, block.View(q), block.View(k), block.View(v), block.View(cotangent), backward);
        }

        void Dense(bool backward)
        {
            using var noGradient = no_grad();
            Kernel(
                libtorch,
                q.transpose(1, 2),
                k.transpose(1, 2),
                v.transpose(1, 2),
                cotangent.transpose(1, 2),
                backward
            );
        }

        static void Kernel(IAttentionKernel kernel, Tensor q, Tensor k, Tensor v, Tensor gradient, bool backward)
        {
            using var inner = NewDisposeScope();
            var (output, logSumExp) = kernel.Forward(q, k, v, causal: true);
            if (backward)
                _ = kernel.Backward(gradient, q, k, v, output, logSumExp, causal: true);
        }
    }

    /// <summary>
    /// Operations of causal attention over a block, forward: two products over half of all pairs and the diagonal.
    /// </summary>
    public static double CausalFlops(RowBlock block, long headDim) =>
        2.0 * block.Segments * block.Group.Heads * block.Rows * (block.Rows + 1) * headDim;

    /// <summary>
    /// The device's rate of matrix products in the compute type, in floating-point operations per second.
    /// </summary>
    public static double ProductRate(BenchDevice device, ScalarType type)
    {
        // A GPU is not filled by less.
        long size = device.IsCuda ? 8192 : 2048;
        using var scope = NewDisposeScope();
        using var noGradient = no_grad();
        Tensor a = randn([size, size], dtype: float32, device: device.Device).to(type);
        Tensor b = randn([size, size], dtype: float32, device: device.Device).to(type);
        double seconds = Measurement.ShortestSeconds(device, 5, () => a.matmul(b).Dispose())[0];
        return 2.0 * size * size * size / seconds;
    }
}
