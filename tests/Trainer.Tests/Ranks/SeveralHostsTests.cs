using System.Diagnostics;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>Ranks on several hosts, started with the scripts in scripts/cluster and joined by TCP.</summary>
[Trait("Category", "machine")]
public sealed class SeveralHostsTests : IDisposable
{
    // What a job may take to end beyond its timeout.
    private static readonly TimeSpan Grace = TimeSpan.FromSeconds(10);

    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(3);

    // A host has all the cores that the ranks of one host share, and sums in blocks per thread round differently.
    private static readonly string[] OneThread = ["--set", "runtime.threads=1"];

    // Long enough for an evaluation in between.
    private const int Steps = 10;

    private readonly TemporaryFolder folder = new();

    public static TheoryData<MpiKind, int> Clusters { get; } =
        new()
        {
            { MpiKind.OpenMpi, 2 },
            { MpiKind.OpenMpi, 4 },
            { MpiKind.Mpich, 2 },
            { MpiKind.Mpich, 4 },
        };

    public void Dispose() => folder.Dispose();

    [Theory]
    [MemberData(nameof(Clusters))]
    public void Train_OnSeveralHosts_GivesTheBitsOfOneHost(MpiKind kind, int count)
    {
        _ = RankTests.Launcher(kind);
        using NamespaceHosts hosts = RankTests.Hosts(count);
        string[] settings = [.. OneThread, "--steps", $"{Steps}"];
        using (
            ProgramRun run = hosts.Start(
                kind,
                Repository.LongNet,
                TrainingJob.RanksAgreeArguments(1, count, folder["several"], settings)
            )
        )
            run.Wait(Limit).AssertSuccess();
        TrainingJob.RanksAgree(kind, 1, count, folder["one"], settings);

        Assert.Equal(Steps, TrainingJob.Values(folder["several"], "loss").Length);
        foreach (string key in new[] { "loss", "grad_norm", "eval_loss" })
            Assert.Equal(TrainingJob.Values(folder["one"], key), TrainingJob.Values(folder["several"], key));
        // All of it went through the network.
        double sent = TrainingJob.Values(folder["several"], "bytes_sent").Sum();
        Assert.True(sent > 0 && hosts.BytesSent(0) > sent, $"rank 0 sent {sent} bytes, its host {hosts.BytesSent(0)}");
    }

    [Theory]
    [MemberData(nameof(Clusters))]
    public void Cut_OfALinkInTraining_EndsTheJobAndNamesTheHostOrRank(MpiKind kind, int count)
    {
        _ = RankTests.Launcher(kind);
        // Open MPI's mpiexec sees that a host is silent after 11 s, and hangs when ranks end the job before.
        double timeout = kind == MpiKind.OpenMpi ? 20 : 8;
        int lost = count - 1;
        using NamespaceHosts hosts = RankTests.Hosts(count);
        using ProgramRun run = hosts.Start(
            kind,
            Repository.LongNet,
            TrainingJob.RanksAgreeArguments(
                1,
                count,
                folder["cut"],
                [.. OneThread, "--set", "training.steps=1000000", "--set", $"parallel.timeout_seconds={timeout}"]
            )
        );
        string metrics = Path.Combine(folder["cut"], "metrics.jsonl");
        var clock = Stopwatch.StartNew();
        while (!File.Exists(metrics) || File.ReadAllText(metrics).Count(character => character == '\n') < 3)
        {
            Assert.True(!run.HasExited && clock.Elapsed < Limit, "the run did not come to its third step");
            Thread.Sleep(50);
        }

        hosts.Cut(lost);
        clock.Restart();
        TimeSpan deadline = TimeSpan.FromSeconds(timeout) + Grace;
        ProgramResult result = run.Wait(deadline);
        Assert.NotEqual(0, result.ExitCode);
        Assert.Matches(
            kind == MpiKind.OpenMpi
                ? $@"Remote daemon: \[\[\d+,\d+\],\d+\] on node {NamespaceHosts.Name(lost)}\b|rank {lost} did "
                    + @"not answer within"
                : $@"longnet: rank \d: .* did not finish within {timeout} s \(parallel\.timeout_seconds\): rank "
                    + $@"{lost} did not answer within \d+ s, so its process is stopped or dead or its machine is out "
                    + @"of reach",
            result.Error
        );
        // Nor does anything stay on the host that nobody reaches. MPICH's ranks there learn nothing from their
        // launcher: they ask for 3 s who is missing, and kill themselves 5 s after an MPI_Abort that reaches no one, at
        // timeout + 9 s in all.
        while (hosts.Processes(lost) is { Count: > 0 } left)
        {
            Assert.True(
                clock.Elapsed < deadline + Grace,
                $"{NamespaceHosts.Name(lost)} still runs\n{string.Join('\n', left)}\n{result}"
            );
            Thread.Sleep(100);
        }
    }

    [Theory]
    [InlineData(MpiKind.OpenMpi, "Open MPI")]
    [InlineData(MpiKind.Mpich, "MPICH")]
    public void Variables_OfTheProgram_ReachAllHosts(MpiKind kind, string mpi)
    {
        _ = RankTests.Launcher(kind);
        using NamespaceHosts hosts = RankTests.Hosts(2);
        using ProgramRun run = hosts.Start(
            kind,
            Repository.LongNet,
            TrainingJob.RanksAgreeArguments(1, 2, folder["none"]),
            new Dictionary<string, string?> { ["LONGNET_MPI_LIBRARY"] = "libnowhere.so" }
        );
        ProgramResult result = run.Wait(Limit);
        Assert.NotEqual(0, result.ExitCode);
        // One rank per host speaks.
        foreach (string rank in new[] { "", "rank 1: " })
            Assert.Contains(
                $"longnet: {rank}{mpi}'s mpiexec started this process, but {mpi}'s library libnowhere.so "
                    + "cannot be loaded",
                result.Error,
                StringComparison.Ordinal
            );
    }

    [Theory]
    [InlineData(MpiKind.OpenMpi, "openmpi.sh")]
    [InlineData(MpiKind.Mpich, "mpich.sh")]
    public void Script_WithThisMachineInTheHostFile_StartsItsRanks(MpiKind kind, string script)
    {
        _ = RankTests.Launcher(kind);
        string hosts = folder.Write("hosts", "# this machine\n\nlocalhost slots=2\n");
        ProgramRun
            .ToEnd(
                Limit,
                Repository.PathOf($"scripts/cluster/{script}"),
                [hosts, Repository.LongNet, .. TrainingJob.RanksAgreeArguments(1, 2, folder["run"], "--steps", "1")]
            )
            .AssertSuccess();
        Assert.Single(TrainingJob.Values(folder["run"], "loss"));
    }

    [Fact]
    public void Hosts_OfATestRunThatWasKilled_AreRemovedByTheNext()
    {
        RankTests.Hosts(1).Dispose();
        // No process has a number that large.
        const string Left = "longnet-test-4194305-1-host0";
        ProgramRun.ToEnd(Limit, "ip", ["netns", "add", Left]).AssertSuccess();
        using ProgramRun process = new("ip", ["netns", "exec", Left, "sleep", "600"]);
        while (!ProgramRun.ToEnd(Limit, "ip", ["netns", "pids", Left]).AssertSuccess().Output.Any(char.IsDigit))
            Thread.Sleep(10);
        using NamespaceHosts hosts = RankTests.Hosts(1);
        process.Wait(Limit);
        Assert.DoesNotContain(
            Left,
            ProgramRun.ToEnd(Limit, "ip", ["netns", "list"]).AssertSuccess().Output,
            StringComparison.Ordinal
        );
    }
}
