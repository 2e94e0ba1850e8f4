using LongNet.Core.Attention;
using LongNet.Trainer.Measuring;
using static TorchSharp.torch;

namespace LongNet.Trainer.Benchmarks;

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
    /// <summary>Measures one length.</summary>
    public AttentionTimes Run(long length)
    {
        using var scope = NewDisposeScope();
        using var work = new AttentionWork(this, length);
        long? growth = Measurement.PeakGrowth(Device, work.Forward);
        bool usesLibtorch = work.Kernel == work.LibtorchKernel;
        Action[] pieces =
        [
            work.Forward,
            () => work.Bare(work.LibtorchKernel, backward: false),
            work.ForwardAndBackward,
            () => work.Bare(work.LibtorchKernel, backward: true),
            .. usesLibtorch
                ? Array.Empty<Action>()
                : [() => work.Bare(work.Kernel, backward: false), () => work.Bare(work.Kernel, backward: true)],
        ];
        double[] seconds = Measurement.ShortestSeconds(Device, Rounds, pieces);
        double[]? dense =
            length <= LongestDense
                ? Measurement.ShortestSeconds(
                    Device,
                    1,
                    () => work.Dense(backward: false),
                    () => work.Dense(backward: true)
                )
                : null;
        return new AttentionTimes
        {
            Length = length,
            Forward = seconds[0],
            ForwardFloor = seconds[1],
            ForwardBare = usesLibtorch ? seconds[1] : seconds[4],
            Both = seconds[2],
            BothFloor = seconds[3],
            BothBare = usesLibtorch ? seconds[3] : seconds[5],
            Dense = dense?[0],
            DenseBoth = dense?[1],
            Flops = work.Blocks.Sum(block => CausalFlops(block, HeadDim)),
            ForwardGrowth = growth,
            QueryBytes = work.QueryBytes,
        };
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
        // Smaller products do not keep a GPU busy.
        long size = device.IsCuda ? 8192 : 2048;
        using var scope = NewDisposeScope();
        using var noGradient = no_grad();
        Tensor a = randn([size, size], dtype: float32, device: device.Device).to(type);
        Tensor b = randn([size, size], dtype: float32, device: device.Device).to(type);
        double seconds = Measurement.ShortestSeconds(device, 5, () => a.matmul(b).Dispose())[0];
        return 2.0 * size * size * size / seconds;
    }
}
