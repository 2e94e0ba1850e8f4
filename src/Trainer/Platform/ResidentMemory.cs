using System.Globalization;

namespace LongNet.Trainer.Platform;

/// <summary>How much memory of this process is resident, in bytes; null where the system does not tell.</summary>
internal static class ResidentMemory
{
    /// <summary>The most that ever was, with the pages of files.</summary>
    public static long? Peak() => OfStatus("VmHWM");

    /// <summary>
    /// What is now, without the pages of files: what was allocated, whether it is in use or kept for the next use.
    /// </summary>
    public static long? Allocated() => OfStatus("RssAnon");

    private static long? OfStatus(string field) =>
        ProcFile.Field("/proc/self/status", field)?.Split(' ')[0] is { } number
        && long.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out long kilobytes)
            ? kilobytes << 10
            : null;
}
