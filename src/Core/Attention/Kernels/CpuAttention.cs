using System.Runtime.Intrinsics.X86;

namespace LongNet.Core.Attention.Kernels;

/// <summary>Which kernel attends in float32 and bfloat16 on CPUs, for this process.</summary>
public static class CpuAttention
{
    /// <summary>Whether this library's own kernel may be used where it can. Results differ by rounding.</summary>
    public static bool PrefersOwnKernel { get; set; } = true;

    /// <summary>Whether it is used, for heads of a multiple of 32 channels: the processor has AVX-512 and nobody turned it off.</summary>
    public static bool UsesOwnKernel => PrefersOwnKernel && Avx512F.IsSupported;
}
