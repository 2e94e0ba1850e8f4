using System.Globalization;

namespace LongNet.Distributed.Launch;

/// <summary>
/// How many threads a rank may use for its tensors, so that the ranks of one machine do not fight for it.
/// </summary>
public static class CpuThreads
{
    /// <summary>The rule. Pure.</summary>
    /// <param name="visibleProcessors">Processors this process may run on.</param>
    /// <param name="machineProcessors">Processors all ranks of the machine have together.</param>
    /// <param name="localRanks">Ranks on this machine.</param>
    /// <returns>
    /// An even share of the machine, at least 1 and at most the processors that the launcher bound the rank to.
    /// </returns>
    public static int PerRank(int visibleProcessors, int machineProcessors, int localRanks)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(visibleProcessors);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(machineProcessors);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(localRanks);
        // Not simply what the rank is bound to: several may be bound to the same socket.
        return Math.Min(visibleProcessors, Math.Max(1, machineProcessors / localRanks));
    }

    /// <summary>Threads for this rank, from what the operating system says.</summary>
    public static int ForThisRank(RankEnvironment environment)
    {
        ArgumentNullException.ThrowIfNull(environment);
        (int visible, int machine) = Processors();
        return PerRank(visible, machine, environment.LocalSize);
    }

    /// <summary>Reads what <see cref="PerRank"/> needs.</summary>
    /// <remarks>
    /// A container's limits bind all its ranks together, so they make the machine smaller; only a set of processors
    /// that is this process's own makes it see fewer.
    /// </remarks>
    public static (int Visible, int Machine) Processors()
    {
        int all = CountList("/sys/devices/system/cpu/online") ?? Environment.ProcessorCount;
        int machine = Math.Min(all, CountList("/sys/fs/cgroup/cpuset.cpus.effective") ?? all);
        if (Quota() is int quota)
            machine = Math.Min(machine, quota);
        return (AllowedProcessors() ?? Environment.ProcessorCount, machine);
    }

    /// <summary>How many numbers a kernel's list such as <c>0-3,8,10-11</c> holds; null where it is none.</summary>
    internal static int? CountOf(string list)
    {
        int count = 0;
        foreach (string range in list.Trim().Split(',', StringSplitOptions.RemoveEmptyEntries))
        {
            string[] ends = range.Split('-');
            if (!Number(ends[0], out int first) || !Number(ends[^1], out int last) || ends.Length > 2 || last < first)
                return null;
            count += last - first + 1;
        }

        return count == 0 ? null : count;
    }

    private static bool Number(string text, out int number) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out number);

    private static int? AllowedProcessors()
    {
        const string Key = "Cpus_allowed_list:";
        string? line = Text("/proc/self/status")
            ?.Split('\n')
            .FirstOrDefault(line => line.StartsWith(Key, StringComparison.Ordinal));
        return line is null ? null : CountOf(line[Key.Length..]);
    }

    // Microseconds of processor time per period, or "max".
    private static int? Quota()
    {
        string[] fields = Text("/sys/fs/cgroup/cpu.max")?.Split(' ', '\n') ?? [];
        return fields.Length >= 2 && Number(fields[0], out int time) && Number(fields[1], out int period) && period > 0
            ? Math.Max(1, (time + period - 1) / period)
            : null;
    }

    private static int? CountList(string path) => Text(path) is string text ? CountOf(text) : null;

    private static string? Text(string path)
    {
        try
        {
            return File.ReadAllText(path);
        }
        catch (Exception missing) when (missing is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}
