using System.Runtime.Intrinsics.X86;
using LongNet.Core.Native;
using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>Which kernel attends in float32 and bfloat16 on CPUs, for this process.</summary>
internal static class CpuAttention
{
    // In float32 ours is the faster one wherever it runs. In bfloat16 libtorch's was on an EPYC of AMD's fourth
    // generation, whose products of bfloat16 are twice as fast as float32's: 516 ms to 603 ms forward and backward. On
    // a Xeon with AMX it was not: 588 ms to 414 ms.
    private static readonly bool LibtorchIsFasterInBfloat16 = IsAmdWithBfloat16();

    /// <summary>Whether this library's own kernel may be used where it can. Results differ by rounding.</summary>
    public static bool PrefersOwnKernel { get; set; } = true;

    /// <summary>
    /// Whether it is used, for heads of a multiple of 32 channels: the system is Linux, where the kernel is tested, the
    /// processor has AVX-512, and nobody turned the kernel off.
    /// </summary>
    public static bool UsesOwnKernel => PrefersOwnKernel && OperatingSystem.IsLinux() && Avx512F.X64.IsSupported;

    /// <summary>Whether it is used for a type of which it is not the only kernel that can do what is asked.</summary>
    internal static bool UsesOwnKernelFor(ScalarType type) =>
        UsesOwnKernel && (type == ScalarType.Float32 || (type == ScalarType.BFloat16 && !LibtorchIsFasterInBfloat16));

    private static bool IsAmdWithBfloat16()
    {
        const int Features = 7,
            Bfloat16 = 1 << 5;
        return ProcessorVendor.IsAmd
            && X86Base.CpuId(0, 0).Eax >= Features
            && X86Base.CpuId(Features, 0).Eax >= 1
            && (X86Base.CpuId(Features, 1).Eax & Bfloat16) != 0;
    }
}
