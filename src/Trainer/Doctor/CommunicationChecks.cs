using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using LongNet.Trainer.Measuring;
using static TorchSharp.torch;

namespace LongNet.Trainer.Doctor;

/// <summary>What ranks can only measure together: how fast they exchange, and whether their clocks agree.</summary>
internal static class CommunicationChecks
{
    private const int Rounds = 5,
        ClockTries = 5;

    // Metrics and logs of several machines are read side by side.
    private static readonly TimeSpan LargestSkew = TimeSpan.FromSeconds(1);

    // Bytes per second over a rank's link: less than a slow machine's memory, and less than a 10 Gbit network.
    private const double SlowWithin = 0.5e9,
        SlowBetween = 0.5e9;

    private static readonly long[] Sizes = [1 << 20, 16 << 20];

    /// <summary>Measures. Collective.</summary>
    /// <param name="hosts">Machines that the ranks are on.</param>
    public static IReadOnlyList<Finding> Of(ProcessGroup world, int hosts)
    {
        if (world.Size == 1)
            return [new Finding("exchange", "one rank exchanges nothing; mpiexec -n N longnet doctor measures")];
        var benchmark = new CollectiveBenchmark(world, ScalarType.Float32, Rounds);
        var findings = new List<Finding> { Clocks(world.Size, Skew(world)) };
        foreach (CollectiveKind kind in new[] { CollectiveKind.AllGather, CollectiveKind.AllReduce })
        {
            var operation = CollectiveOperation.Of(kind);
            findings.Add(Bandwidth(operation.Name, [.. Sizes.Select(size => benchmark.Run(operation, size))], hosts));
        }

        return findings;
    }

    /// <param name="ranks">How many.</param>
    /// <param name="skew">Between the first clock and the last.</param>
    internal static Finding Clocks(int ranks, TimeSpan skew) =>
        skew <= LargestSkew
            ? new Finding("clocks", $"those of {ranks} ranks agree within {Milliseconds(skew)} ms")
            : Finding.ToFix(
                "clocks",
                $"those of {ranks} ranks differ by {Milliseconds(skew)} ms",
                "Clocks differ, so logs and metrics of several machines cannot be read side by side: run a "
                    + "time service (chrony, systemd-timesyncd) on every machine."
            );

    internal static Finding Bandwidth(string operation, IReadOnlyList<CollectiveTimes> times, int hosts)
    {
        string value = string.Join(
            ", ",
            times.Select(time =>
                (
                    $"{ByteSize.Format(time.Bytes)} in {time.MedianSeconds * 1e3:F2} ms "
                    + $"({time.MedianBusBandwidth / 1e9:F2} GB/s)"
                )
            )
        );
        return times.Max(time => time.MedianBusBandwidth) >= (hosts == 1 ? SlowWithin : SlowBetween)
            ? new Finding(operation, value)
            : Finding.Note(
                operation,
                value
                    + (
                        hosts == 1
                            ? ", slow for one machine: other programs may use it, or MPI goes through the network"
                            : ", slow: MPI may take a slow network; name the fast one, e.g. "
                                + "OMPI_MCA_btl_tcp_if_include or UCX_NET_DEVICES"
                    )
            );
    }

    // The least of several tries: a rank may be late leaving the barrier, and its clock then seems to be ahead.
    private static TimeSpan Skew(ProcessGroup world)
    {
        using var scope = NewDisposeScope();
        long least = long.MaxValue;
        for (int attempt = 0; attempt < ClockTries; attempt++)
        {
            world.Barrier();
            long[] clocks = world
                .AllGather(tensor(new[] { TimeProvider.System.GetUtcNow().UtcTicks }, device: CPU))
                .data<long>()
                .ToArray();
            least = Math.Min(least, clocks.Max() - clocks.Min());
        }

        return new TimeSpan(least);
    }

    private static string Milliseconds(TimeSpan time) => time.TotalMilliseconds.ToString("F1");
}
