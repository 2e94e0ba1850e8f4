using System.Globalization;
using LongNet.Trainer.Doctor;

namespace LongNet.Trainer.Loop;

/// <summary>The most memory that this process has ever had resident.</summary>
internal static class PeakMemory
{
    /// <summary>In bytes, since the process began; null where the system does not tell.</summary>
    public static long? Bytes() =>
        SystemText.Field("/proc/self/status", "VmHWM")?.Split(' ')[0] is { } number && long.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out long kilobytes)
            ? kilobytes << 10 : null;
}
