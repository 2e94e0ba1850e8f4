using System.Runtime.InteropServices;
using System.Runtime.Intrinsics.X86;
using System.Text;

namespace LongNet.Core.Native;

/// <summary>Who made this machine's processor.</summary>
internal static class ProcessorVendor
{
    /// <summary>Whether it is one of AMD's.</summary>
    public static bool IsAmd { get; } = X86Base.IsSupported && Name() == "AuthenticAMD";

    // CPUID's leaf 0 returns the name in three registers.
    private static string Name()
    {
        var (_, ebx, ecx, edx) = X86Base.CpuId(0, 0);
        Span<int> words = [ebx, edx, ecx];
        return Encoding.ASCII.GetString(MemoryMarshal.AsBytes(words));
    }
}
