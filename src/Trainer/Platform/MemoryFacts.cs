using System.Globalization;

namespace LongNet.Trainer.Platform;

/// <summary>What memory a rank may take; bytes, null where there is no limit or the system does not tell.</summary>
/// <param name="Total">The machine's.</param>
/// <param name="Available">What the machine can give now.</param>
/// <param name="Group">The lowest limit of the process's control groups: a container's or a job's, for all its ranks
/// together.</param>
/// <param name="AddressSpace">ulimit -v.</param>
/// <param name="Locked">ulimit -l.</param>
/// <param name="SharedTotal">Size of /dev/shm.</param>
/// <param name="SharedFree">What is free of it.</param>
/// <param name="HasRdma">Whether the machine has a network adapter that needs locked memory.</param>
/// <param name="DiskFree">Free space where the process was started.</param>
internal sealed record MemoryFacts(
    long? Total,
    long? Available,
    long? Group,
    long? AddressSpace,
    long? Locked,
    long? SharedTotal,
    long? SharedFree,
    bool HasRdma,
    long? DiskFree
)
{
    // Where control groups know no limit they tell a number near the largest.
    private const long NoLimit = 1L << 60;

    public static MemoryFacts Collect()
    {
        DriveInfo? shared = Drive("/dev/shm");
        return new MemoryFacts(
            Kilobytes("MemTotal"),
            Kilobytes("MemAvailable"),
            GroupLimit(),
            Limit("Max address space"),
            Limit("Max locked memory"),
            shared?.TotalSize,
            shared?.AvailableFreeSpace,
            Directory.Exists("/sys/class/infiniband")
                && Directory.EnumerateFileSystemEntries("/sys/class/infiniband").Any(),
            Drive(Environment.CurrentDirectory)?.AvailableFreeSpace
        );
    }

    private static long? Kilobytes(string name) =>
        ProcFile.Field("/proc/meminfo", name)?.Split(' ')[0] is string number && Number(number) is long value
            ? value << 10
            : null;

    private static long? Limit(string name) =>
        ProcFile.Field("/proc/self/limits", name)?.Split(' ')[0] is string number ? Number(number) : null;

    // Both versions of control groups.
    private static long? GroupLimit() =>
        ProcFile
            .OfControlGroups("memory.max")
            .Append(ProcFile.OfFile("/sys/fs/cgroup/memory/memory.limit_in_bytes")?.Trim() ?? "")
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
        catch (Exception missing) when (missing is IOException or UnauthorizedAccessException or ArgumentException)
        {
            return null;
        }
    }
}
