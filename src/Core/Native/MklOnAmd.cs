using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;

namespace LongNet.Core.Native;

/// <summary>
/// libtorch's oneMKL takes slow kernels where the processor is not Intel's, though AMD's has the same vector
/// instructions: less than half of the GEMM rate, measured on an EPYC with AVX-512. One exported function decides; this
/// makes it answer yes.
/// </summary>
internal static unsafe partial class MklOnAmd
{
    private const string DecidingFunction = "mkl_serv_intel_cpu_true";

    // mov eax, 1; ret
    private static ReadOnlySpan<byte> AnswerYes => [0xB8, 0x01, 0x00, 0x00, 0x00, 0xC3];

    /// <summary>
    /// Applies where every condition holds: Linux on x64, an AMD processor with AVX2, a libtorch whose oneMKL exports
    /// the function, and an answer of no so far. Call after <see cref="LibTorch.Load"/> and before the first matrix
    /// product, which fixes the choice.
    /// </summary>
    /// <returns>Whether MKL now takes the fast kernels because of this call.</returns>
    public static bool Apply()
    {
        if (
            !OperatingSystem.IsLinux()
            || RuntimeInformation.ProcessArchitecture != Architecture.X64
            || !Avx2.IsSupported
            || !ProcessorVendor.IsAmd
        )
            return false;
        if (!LibTorch.TryGetExport(DecidingFunction, out nint address))
            return false;
        var decides = (delegate* unmanaged<int>)address;
        return decides() == 0 && Overwrite((byte*)address, AnswerYes) && decides() == 1;
    }

    private static bool Overwrite(byte* code, ReadOnlySpan<byte> bytes)
    {
        const int Read = 1,
            Write = 2,
            Execute = 4;
        nint pageSize = Environment.SystemPageSize;
        nint first = (nint)code / pageSize * pageSize;
        nuint length = (nuint)((nint)code + bytes.Length - first);
        if (Protect(first, length, Read | Write | Execute) != 0)
            return false; // A system that forbids code to be written keeps its speed, and works.
        bytes.CopyTo(new Span<byte>(code, bytes.Length));
        return Protect(first, length, Read | Execute) == 0;
    }

    [LibraryImport("libc", EntryPoint = "mprotect")]
    private static partial int Protect(nint address, nuint length, int protection);
}
