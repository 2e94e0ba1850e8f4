namespace LongNet.Trainer.Benchmarks;

/// <summary>One line of the benchmark: forward by itself, and forward with backward. Times are in seconds.</summary>
/// <remarks>The order of the properties is that of the JSON report.</remarks>
internal sealed record AttentionTimes
{
    // Backward recomputes the scores and has four products where forward has two.
    public const double BackwardFlops = 2.5;

    /// <summary>Rows of the sequence.</summary>
    public required long Length { get; init; }

    /// <summary>Dilated attention.</summary>
    public required double Forward { get; init; }

    /// <summary>libtorch's fused kernel on the same blocks, back to back, without merging the branches.</summary>
    public required double ForwardFloor { get; init; }

    /// <summary>
    /// The kernel that dilated attention uses, likewise; equal to <see cref="ForwardFloor"/> where it is libtorch's.
    /// </summary>
    public required double ForwardBare { get; init; }

    /// <summary>Dilated attention, forward and backward.</summary>
    public required double Both { get; init; }

    /// <summary>libtorch's kernel, forward and backward.</summary>
    public required double BothFloor { get; init; }

    /// <summary>The kernel that dilated attention uses, forward and backward.</summary>
    public required double BothBare { get; init; }

    /// <summary>Dense causal attention by libtorch's fused kernel; null where it was left out.</summary>
    public required double? Dense { get; init; }

    /// <summary>Likewise, forward and backward.</summary>
    public required double? DenseBoth { get; init; }

    /// <summary>Floating-point operations of the kernel's products, forward.</summary>
    public required double Flops { get; init; }

    /// <summary>Peak growth of the resident memory in forward, in bytes; null where unknown.</summary>
    public required long? ForwardGrowth { get; init; }

    /// <summary>Size of the queries, in bytes.</summary>
    public required long QueryBytes { get; init; }

    public double ForwardRatio => Forward / ForwardFloor;

    public double BothRatio => Both / BothFloor;

    public double ForwardOverhead => Forward / ForwardBare;

    public double BothOverhead => Both / BothBare;
}
