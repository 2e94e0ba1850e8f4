using System.Runtime.InteropServices;

namespace LongNet.Core.Native;

/// <summary>
/// glibc maps and unmaps every large tensor again, and each one costs page faults: element-wise work is left with a
/// quarter of the memory's speed. This class keeps freed memory with the process.
/// </summary>
internal static partial class MemoryAllocator
{
    // Names and values of malloc.h.
    private const int TrimThreshold = -1,
        TopPad = -2,
        MapThreshold = -3;

    // Grown by this much at a time, so that a step's first tensors do not each ask the system.
    private const int TopPadBytes = 256 << 20;

    /// <summary>
    /// Size from which tensors are released where they are long lived and few: the kept memory between them fits no
    /// other tensor of their size, and the peak of a long sequence would be half as high again, or twice as high.
    /// </summary>
    public const int LongSequenceTensor = 32 << 20;

    /// <summary>Keeps freed memory, for this process and from now on.</summary>
    /// <param name="smallerThan">Bytes of the smallest tensor that is mapped and released each time.</param>
    /// <returns>Whether the system's allocator is glibc's and took the settings.</returns>
    public static bool KeepFreedMemory(int smallerThan = int.MaxValue)
    {
        try
        {
            return OperatingSystem.IsLinux()
                && Set(MapThreshold, smallerThan) == 1
                && Set(TrimThreshold, int.MaxValue) == 1
                && Set(TopPad, TopPadBytes) == 1;
        }
        catch (EntryPointNotFoundException)
        {
            return false;
        }
    }

    /// <summary>Returns freed memory to the system; for quiet points, such as between two measurements.</summary>
    public static void Trim()
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
