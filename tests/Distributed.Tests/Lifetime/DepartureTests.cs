using System.Globalization;
using System.Text.RegularExpressions;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Lifetime;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Distributed.Tests.Lifetime;

/// <summary>A rank that goes takes the others along in time, and standard error says which it was and why.</summary>
[Trait("Category", "machine")]
public partial class DepartureTests
{
    // Of every collective, in seconds: far longer than the millions of elements take, short enough to wait for.
    private const double TimeoutSeconds = 4;

    // What a job may take to end beyond that.
    private static readonly TimeSpan Grace = TimeSpan.FromSeconds(10);

    public static TheoryData<MpiKind, int> Jobs { get; } =
        new()
        {
            { MpiKind.OpenMpi, 2 },
            { MpiKind.OpenMpi, 4 },
            { MpiKind.Mpich, 2 },
            { MpiKind.Mpich, 4 },
        };

    [Theory]
    [MemberData(nameof(Jobs))]
    public void UnhandledException_OnOneRank_EndsTheJobWithItsMessage(MpiKind kind, int ranks)
    {
        using Departure gone = Depart(kind, ranks, "throw");
        Assert.Equal(1, gone.Result.ExitCode);
        Assert.Contains(
            "longnet: rank 1: System.InvalidOperationException: the GPU fell off the bus",
            gone.Result.Error,
            StringComparison.Ordinal
        );
        IReadOnlyList<FlightRecord> records = gone.Records();
        Assert.Equal(Enumerable.Range(0, ranks), records.Select(record => record.Rank));
        Assert.Matches(
            """^Rank 1 \(\S+, process \d+, about to throw\) failed: System\.InvalidOperationException: the """
                + """GPU fell off the bus Meanwhile rank.* waited in all-reduce #4 of the group 'world' \(\[3\] """
                + """Float32, sum\) at Departures\.cs:\d+\.$""",
            FlightRecordAnalysis.Explain(records)
        );
    }

    [Theory]
    [MemberData(nameof(Jobs))]
    public void Exit_OfOneRank_EndsTheJob(MpiKind kind, int ranks)
    {
        using Departure gone = Depart(kind, ranks, "leave");
        Assert.Equal(ExitCode.RankLeft, gone.Result.ExitCode);
        Assert.Contains(
            "longnet: rank 1: left without finishing; ending the job with code 86.",
            gone.Result.Error,
            StringComparison.Ordinal
        );
    }

    [Theory]
    [MemberData(nameof(Jobs))]
    public void Kill_InTheMiddleOfAnAllReduce_EndsTheJobAndNamesTheRank(MpiKind kind, int ranks)
    {
        using Departure gone = Depart(kind, ranks, "die");
        Assert.NotEqual(0, gone.Result.ExitCode);
        string line = Assert.Single(Told(gone.Result));
        Assert.Matches(
            """^longnet: rank 1 \(\S+, process \d+\) was killed: by kill -9, the out-of-memory killer """
                + """\(dmesg tells\) or a crash in native code\.$""",
            line
        );
    }

    [Theory]
    [MemberData(nameof(Jobs))]
    public void Terminate_OfOneRank_EndsTheJobAndNamesTheRank(MpiKind kind, int ranks)
    {
        using Departure gone = Depart(kind, ranks, "terminate");
        Assert.NotEqual(0, gone.Result.ExitCode);
        Assert.Matches(
            """^longnet: rank 1 \(\S+, process \d+\) was ended by SIGTERM\.$""",
            Assert.Single(Told(gone.Result))
        );
    }

    [Theory]
    [MemberData(nameof(Jobs))]
    public void Stop_InTheMiddleOfAnAllReduce_EndsTheJobAndNamesTheRank(MpiKind kind, int ranks)
    {
        using Departure gone = Depart(kind, ranks, "stop");
        Assert.Equal(ExitCode.CollectiveTimeout, gone.Result.ExitCode);
        // Others may have got one further, if the rank was stopped after it had sent.
        Assert.Matches(
            """^longnet: rank \d: All-reduce #\d+ of the group 'world' \(\[2000000\] Float32, sum\) did not """
                + """finish within 4 s \(parallel\.timeout_seconds\): rank 1 did not answer within 3 s, so its """
                + """process is stopped or dead or its machine is out of reach; ranks? [\d, -]+ waits? in it at """
                + $"""Departures\.cs:\d+, waiting\. The ranks' flight records are in {Regex.Escape(gone.Folder)} """
                + """\(longnet flight-record\)\.$""",
            Assert.Single(Told(gone.Result))
        );
        // The stopped rank may write its own once the launcher lets it go on in order to end it.
        Assert.Superset(
            Enumerable.Range(0, ranks).Where(rank => rank != 1).ToHashSet(),
            gone.Records().Select(record => record.Rank).ToHashSet()
        );
    }

    [Theory]
    [MemberData(nameof(Jobs))]
    public void Hang_OfOneRank_EndsTheJobAndSaysWhereItIs(MpiKind kind, int ranks)
    {
        using Departure gone = Depart(kind, ranks, "hang");
        Assert.Equal(ExitCode.CollectiveTimeout, gone.Result.ExitCode);
        Assert.Matches(
            """^longnet: rank \d: All-reduce #4 of the group 'world' \(\[3\] Float32, sum\) did not finish """
                + """within 4 s \(parallel\.timeout_seconds\): rank 1 \(\S+, process \d+\) never called it: it is """
                + """at "about to hang", since \d+ s, and its last was all-reduce #3 of the group 'world' """
                + $"""\(\[2000000\] Float32, sum\); {Others(ranks)} in it at Departures\.cs:\d+, waiting\. """,
            Assert.Single(Told(gone.Result))
        );
        IReadOnlyList<FlightRecord> records = gone.Records();
        Assert.Equal(Enumerable.Range(0, ranks), records.Select(record => record.Rank));
        Assert.Contains("rank 1 (", FlightRecordAnalysis.Explain(records), StringComparison.Ordinal);
        Assert.Contains(
            "never called it: it is at \"about to hang\"",
            FlightRecordAnalysis.Explain(records),
            StringComparison.Ordinal
        );
    }

    [Theory]
    [MemberData(nameof(Jobs))]
    public void EarlyEnd_OfOneRank_EndsTheJobAndSaysSo(MpiKind kind, int ranks)
    {
        using Departure gone = Depart(kind, ranks, "finish");
        Assert.Equal(ExitCode.CollectiveTimeout, gone.Result.ExitCode);
        string line = Assert.Single(Told(gone.Result));
        Assert.Matches(
            """did not finish within 4 s \(parallel\.timeout_seconds\): rank 1 \(\S+, process \d+\) never """
                + """called it: it waits in barrier #1 of the group 'end of the program' at """
                + """DistributedRuntime\.cs, finished; |^longnet: rank 1: Barrier #1 of the group 'end of the """
                + """program' did not finish within 4 s \(parallel\.timeout_seconds\): rank 0 \(\S+, process \d+\) """
                + """never called it: it waits in all-reduce #4 of the group 'world'""",
            line
        );
    }

    [Theory]
    [InlineData(MpiKind.OpenMpi, "checked-shape", "all-reduce #4 of the group 'world' ([7] Float32, sum)")]
    [InlineData(MpiKind.OpenMpi, "checked-operation", "all-reduce #4 of the group 'world' ([3] Float32, max)")]
    [InlineData(MpiKind.Mpich, "checked-type", "all-reduce #4 of the group 'world' ([3] Float64, sum)")]
    [InlineData(MpiKind.Mpich, "checked-order", "barrier #4 of the group 'world'")]
    public void DifferentCollectives_WhereTheyAreChecked_AreToldBeforeTheyRun(MpiKind kind, string how, string called)
    {
        using Departure gone = Depart(kind, 3, how);
        Assert.Equal(1, gone.Result.ExitCode);
        Assert.Matches(
            """^longnet: rank 0: Ranks are about to run different collectives: rank 1 calls """
                + $"""{Regex.Escape(called)} at Departures\.cs:\d+, about to {how}; rank 0 calls all-reduce #4 of """
                + """the group 'world' \(\[3\] Float32, sum\) at Departures\.cs:\d+, waiting\. All ranks of a """
                + """group must make the same calls in the same order\.$""",
            Assert.Single(Told(gone.Result))
        );
    }

    // MPI itself notices that more comes than is expected, or nothing does and time runs out.
    [Theory]
    [InlineData(MpiKind.OpenMpi)]
    [InlineData(MpiKind.Mpich)]
    public void DifferentCollectives_WhereTheyAreNotChecked_EndTheJob(MpiKind kind)
    {
        using Departure gone = Depart(kind, 3, "differ");
        Assert.Contains(gone.Result.ExitCode, new[] { 1, ExitCode.CollectiveTimeout });
        Assert.Matches(
            "of the group 'world'.*(parallel.check_collectives: true says which|instead)",
            gone.Result.Error
        );
    }

    private static string Others(int ranks) => ranks == 2 ? "rank 0 waits" : "ranks 0, 2, 3 wait";

    private static string[] Told(ProgramResult result) =>
        [
            .. result
                .Error.Split('\n')
                .Select(line => line.TrimEnd())
                .Where(line => line.StartsWith("longnet: ", StringComparison.Ordinal)),
        ];

    private static Departure Depart(MpiKind kind, int ranks, string how)
    {
        MpiLauncher launcher = RankTests.Launcher(kind);
        var folder = new TemporaryFolder();
        string records = folder["flight-record"];
        ProgramResult result = launcher.Run(
            ranks,
            Repository.RankWorker,
            ["depart", how, "1", $"{TimeoutSeconds}", records]
        );
        DateTimeOffset end = DateTimeOffset.UtcNow;
        Match departed = DepartureTime().Match(result.Output);
        Assert.True(departed.Success, $"{result}");
        TimeSpan took =
            end
            - DateTimeOffset.FromUnixTimeMilliseconds(
                long.Parse(departed.Groups[1].Value, CultureInfo.InvariantCulture)
            );
        Assert.True(
            took < TimeSpan.FromSeconds(TimeoutSeconds) + Grace,
            $"the job ended {took.TotalSeconds:F1} s after the rank\n{result}"
        );
        return new Departure(folder, records, result);
    }

    [GeneratedRegex(@"departing at (\d+)")]
    private static partial Regex DepartureTime();

    private sealed record Departure(TemporaryFolder Temporary, string Folder, ProgramResult Result) : IDisposable
    {
        public IReadOnlyList<FlightRecord> Records() => FlightRecord.ReadAll(Folder);

        public void Dispose() => Temporary.Dispose();
    }
}
