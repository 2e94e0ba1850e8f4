using System.Runtime.InteropServices;

namespace LongNet.Trainer.Doctor;

/// <summary>Whether there is an NCCL. Asks its version, and starts nothing.</summary>
internal static unsafe class NcclLibrary
{
    /// <summary>E.g. "2.22.3"; null where the library is missing.</summary>
    public static string? Version()
    {
        if (!NativeLibrary.TryLoad("libnccl.so.2", out nint library) || !NativeLibrary.TryGetExport(library, "ncclGetVersion", out nint function))
            return null;
        int version;
        if (((delegate* unmanaged<int*, int>)function)(&version) != 0)
            return null;
        // 2.9 and later write 2 22 03 as 22203, earlier ones 2 8 3 as 2803.
        return version < 10000 ? $"{version / 1000}.{version / 100 % 10}.{version % 100}" : $"{version / 10000}.{version / 100 % 100}.{version % 100}";
    }
}
