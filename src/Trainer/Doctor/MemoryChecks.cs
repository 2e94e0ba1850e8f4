using LongNet.Trainer.Measuring;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Doctor;

/// <summary>Memory, and the limits on it.</summary>
internal static class MemoryChecks
{
    // .NET and libtorch take half a gigabyte before the first tensor.
    private const long LeastPerRank = 1L << 30;

    // What MPI and NCCL put there for messages within a machine; containers often have 64 MB.
    private const long LeastSharedPerRank = 16L << 20;

    private const long LittleDisk = 5L << 30;

    public static IEnumerable<Finding> Of(IReadOnlyList<RankFacts> ranks) =>
        RankGroups.By(ranks, rank => rank.Host).SelectMany(host => Host(host.Value, host.Ranks));

    private static IEnumerable<Finding> Host(string host, IReadOnlyList<RankFacts> ranks)
    {
        MemoryFacts memory = ranks[0].Memory;
        int count = Math.Max(ranks.Count, ranks[0].LocalRanks);
        long? limit = ranks.Min(rank => Smaller(rank.Memory.Total, rank.Memory.ControlGroup));
        if (limit is long bytes)
        {
            string byGroup = memory.ControlGroup <= memory.Total ? ", by the limit of the control group" : "";
            string value =
                $"{host}: {ByteSize.Format(bytes)}{byGroup}, " + $"{Size(memory.Available)} of the machine available";
            yield return bytes / count >= LeastPerRank
                ? new Finding("memory", value)
                : Finding.ToFix(
                    "memory",
                    value,
                    $"{ByteSize.Format(bytes)} on {host} are too little for {count} "
                        + $"rank{(count == 1 ? "" : "s")}, each of which takes {ByteSize.Format(LeastPerRank)} "
                        + "before it computes: raise the limit (--memory of the container, --mem of the job), or "
                        + "start fewer ranks there."
                );
        }

        long? space = ranks.Min(rank => rank.Memory.AddressSpace);
        if (space is long least)
        {
            yield return Finding.ToFix(
                "address space",
                $"{host}: {ByteSize.Format(least)}",
                $"The address space on {host} is limited to {ByteSize.Format(least)} (ulimit -v), of which "
                    + ".NET and MPI reserve far more than they use: start with ulimit -v unlimited, and limit "
                    + "memory by control groups."
            );
        }

        long? locked = ranks.Min(rank => rank.Memory.Locked);
        yield return memory.HasRdma && locked < memory.Total
            ? Finding.ToFix(
                "locked memory",
                $"{host}: {Size(locked)}",
                $"Locked memory on {host} is limited to {Size(locked)} (ulimit -l), but its network adapter "
                    + "moves only what is locked: set memlock to unlimited in /etc/security/limits.conf and for "
                    + "the job's daemon, or start containers with --ulimit memlock=-1."
            )
            : new Finding(
                "locked memory",
                $"{host}: {(locked is null ? "unlimited" : Size(locked))}"
                    + (memory.HasRdma ? "" : "; no network adapter needs it")
            );

        if (memory.SharedFree is long free)
        {
            string value = $"{host}: {ByteSize.Format(free)} free of {Size(memory.SharedTotal)} in /dev/shm";
            yield return count == 1 || free >= LeastSharedPerRank * count
                ? new Finding("shared memory", value)
                : Finding.ToFix(
                    "shared memory",
                    value,
                    $"/dev/shm on {host} has {ByteSize.Format(free)} free, too little for the messages of "
                        + $"{count} ranks: start the container with --shm-size=1g (or --ipc=host), or mount -o "
                        + "remount,size=1G /dev/shm."
                );
        }

        if (memory.DiskFree is long disk)
            yield return new Finding(
                "disk",
                $"{host}: {ByteSize.Format(disk)} free here, where runs are written unless --output names "
                    + "another place",
                disk >= LittleDisk ? Mark.Ok : Mark.Note
            );
    }

    private static long? Smaller(long? a, long? b) => a is null || b < a ? b : a;

    private static string Size(long? bytes) => bytes is long known ? ByteSize.Format(known) : "an unknown amount";
}
