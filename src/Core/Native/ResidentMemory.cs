using System.Globalization;

namespace LongNet.Core.Native;

/// <summary>How much memory of this process is resident, in bytes; null where the system does not report it.</summary>
internal static class ResidentMemory
{
    /// <summary>The most that has been resident so far, with the pages of mapped files.</summary>
    public static long? Peak() => OfStatus("VmHWM");

    /// <summary>
    /// What is resident now, without the pages of mapped files: allocations, whether in use or kept for the next use.
    /// </summary>
    public static long? Allocated() => OfStatus("RssAnon");

    private static long? OfStatus(string field) =>
        ProcFile.Field("/proc/self/status", field)?.Split(' ')[0] is { } number
        && long.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out long kilobytes)
            ? kilobytes << 10
            : null;
}
