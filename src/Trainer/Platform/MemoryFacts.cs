using System.Globalization;
using LongNet.Core.Native;

namespace LongNet.Trainer.Platform;

/// <summary>
/// The memory that a rank may use, in bytes; null where there is no limit or the system does not report it.
/// </summary>
internal sealed record MemoryFacts
{
    // Where control groups have no limit they report a number near the largest.
    private const long NoLimit = 1L << 60;

    /// <summary>The machine's memory.</summary>
    public long? Total { get; init; }

    /// <summary>What of the machine's memory is available now.</summary>
    public long? Available { get; init; }

    /// <summary>
    /// The lowest limit of the process's control groups: a container's or a job's, for all its ranks together.
    /// </summary>
    public long? ControlGroup { get; init; }

    /// <summary>ulimit -v.</summary>
    public long? AddressSpace { get; init; }

    /// <summary>ulimit -l.</summary>
    public long? Locked { get; init; }

    /// <summary>Size of /dev/shm.</summary>
    public long? SharedTotal { get; init; }

    /// <summary>What of /dev/shm is free.</summary>
    public long? SharedFree { get; init; }

    /// <summary>Whether the machine has a network adapter that needs locked memory.</summary>
    public bool HasRdma { get; init; }

    /// <summary>Free space of the disk where the process was started.</summary>
    public long? DiskFree { get; init; }

    public static MemoryFacts Collect()
    {
        const string Adapters = "/sys/class/infiniband";
        DriveInfo? shared = Drive("/dev/shm");
        return new MemoryFacts
        {
            Total = Kilobytes("MemTotal"),
            Available = Kilobytes("MemAvailable"),
            ControlGroup = ControlGroupLimit(),
            AddressSpace = Limit("Max address space"),
            Locked = Limit("Max locked memory"),
            SharedTotal = shared?.TotalSize,
            SharedFree = shared?.AvailableFreeSpace,
            HasRdma = Directory.Exists(Adapters) && Directory.EnumerateFileSystemEntries(Adapters).Any(),
            DiskFree = Drive(Environment.CurrentDirectory)?.AvailableFreeSpace,
        };
    }

    private static long? Kilobytes(string name) =>
        ProcFile.Field("/proc/meminfo", name)?.Split(' ')[0] is string number && Number(number) is long value
            ? value << 10
            : null;

    private static long? Limit(string name) =>
        ProcFile.Field("/proc/self/limits", name)?.Split(' ')[0] is string number ? Number(number) : null;

    // Both versions of control groups.
    private static long? ControlGroupLimit() =>
        ProcFile
            .OfControlGroups("memory.max")
            .Append(ProcFile.Text("/sys/fs/cgroup/memory/memory.limit_in_bytes")?.Trim() ?? "")
            .Select(Number)
            .Where(limit => limit < NoLimit)
            .Min();

    private static long? Number(string text) =>
        long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long number) ? number : null;

    private static DriveInfo? Drive(string path)
    {
        try
        {
            var drive = new DriveInfo(path);
            return drive.IsReady ? drive : null;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or ArgumentException)
        {
            return null;
        }
    }
}
