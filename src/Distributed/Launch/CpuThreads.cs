using System.Globalization;
using LongNet.Core.Native;

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

    private static bool Number(string text, out int number) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out number);

    private static int? AllowedProcessors() => Count(ProcFile.Field("/proc/self/status", "Cpus_allowed_list:"));

    // Microseconds of processor time per period, or "max".
    private static int? Quota()
    {
        string[] fields = ProcFile.Text("/sys/fs/cgroup/cpu.max")?.Split(' ', '\n') ?? [];
        return fields.Length >= 2 && Number(fields[0], out int time) && Number(fields[1], out int period) && period > 0
            ? Math.Max(1, (time + period - 1) / period)
            : null;
    }

    private static int? CountList(string path) => Count(ProcFile.Text(path));

    private static int? Count(string? list) => ProcessorList.Parse(list)?.Length;
}
