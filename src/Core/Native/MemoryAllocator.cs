using System.Runtime.InteropServices;

namespace LongNet.Core.Native;

/// <summary>
/// glibc maps and unmaps every large tensor anew, and each is paid for in page faults: a quarter of the memory's speed is left for
/// element-wise work. This keeps freed memory with the process.
/// </summary>
public static partial class MemoryAllocator
{
    // Names and values of malloc.h.
    private const int TrimThreshold = -1, TopPad = -2, MapThreshold = -3;

    // Grown by this much at a time, so that a step's first tensors do not each ask the system.
    private const int TopPadBytes = 256 << 20;

    /// <summary>Keeps freed memory, for this process and from now on.</summary>
    /// <returns>Whether the system's allocator is glibc's and took the settings.</returns>
    public static bool KeepFreedMemory()
    {
        try
        {
            return OperatingSystem.IsLinux()
                && Set(MapThreshold, int.MaxValue) == 1 && Set(TrimThreshold, int.MaxValue) == 1 && Set(TopPad, TopPadBytes) == 1;
        }
        catch (EntryPointNotFoundException)
        {
            return false;
        }
    }

    /// <summary>Gives freed memory back to the system; for quiet points, such as between two measurements.</summary>
    public static void GiveBack()
    {
        try
        {
            if (OperatingSystem.IsLinux())
                _ = Trim(0);
        }
        catch (EntryPointNotFoundException)
        {
            // Another allocator than glibc's.
        }
    }

    [LibraryImport("libc", EntryPoint = "mallopt")]
    private static partial int Set(int parameter, int value);

    [LibraryImport("libc", EntryPoint = "malloc_trim")]
    private static partial int Trim(nuint keep);
}
