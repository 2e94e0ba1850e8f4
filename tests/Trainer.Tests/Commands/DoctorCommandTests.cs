using System.Text.Json;
using System.Text.RegularExpressions;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Trainer.Tests.Commands;

/// <summary>
/// longnet doctor on real ranks. This machine may have something to fix of its own, but never what a test does not
/// provoke.
/// </summary>
public class DoctorCommandTests
{
    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 1)]
    [InlineData(MpiKind.OpenMpi, 2)]
    [InlineData(MpiKind.Mpich, 1)]
    [InlineData(MpiKind.Mpich, 2)]
    public void Doctor_OnAnyRanks_TellsEverySubjectOnceAndEnds(MpiKind kind, int ranks)
    {
        ProgramResult result = RankTests.Launcher(kind).Run(ranks, Repository.LongNet, ["doctor"]);
        string[] lines = result.Output.TrimEnd().Split('\n');
        string[] subjects =
            ranks == 1
                ?
                [
                    "program",
                    "libtorch",
                    "mpi",
                    "processor",
                    "cores",
                    "affinity",
                    "settings",
                    "memory",
                    "locked memory",
                    "shared memory",
                    "disk",
                    "gpus",
                    "nccl",
                    "exchange",
                ]
                :
                [
                    "program",
                    "libtorch",
                    "mpi",
                    "processor",
                    "cores",
                    "affinity",
                    "settings",
                    "memory",
                    "locked memory",
                    "shared memory",
                    "disk",
                    "gpus",
                    "nccl",
                    "clocks",
                    "all-gather",
                    "all-reduce",
                ];
        Dictionary<string, string> values = Values(lines);
        Assert.Equal(subjects, values.Keys);

        string who = ranks == 1 ? "" : "ranks 0-1: ";
        Assert.Matches($"^{who}longnet [0-9.]+.*, \\.NET 10\\.", values["program"]);
        Assert.Matches($"^{who}libtorch [0-9]+\\.[0-9]+\\.[0-9]+ for (CPUs|CUDA)$", values["libtorch"]);
        Assert.StartsWith(
            kind switch
            {
                MpiKind.None => "none, as no mpiexec started this process",
                MpiKind.OpenMpi => $"{who}Open MPI v",
                _ => $"{who}MPICH ",
            },
            values["mpi"],
            StringComparison.Ordinal
        );
        Assert.Matches($": {ranks} rank(s|) on [0-9]+ processors?$", values["cores"]);
        Assert.Matches($"^{who}processors? [0-9,-]+, [0-9]+ threads?$", values["affinity"]);
        Assert.Matches($"^{who}[0-9]+ CPU threads? per rank", values["settings"]);
        if (ranks > 1)
        {
            foreach (string operation in new[] { "all-gather", "all-reduce" })
                Assert.Matches(
                    @"^1MB in [0-9.]+ ms \([0-9.]+ GB/s\), 16MB in [0-9.]+ ms \([0-9.]+ GB/s\)",
                    values[operation]
                );
            Assert.Matches(@"^those of 2 ranks agree within [0-9.]+ ms$", values["clocks"]);
        }

        if (result.ExitCode == 0)
        {
            Assert.Equal("ready", lines[^1]);
            Assert.DoesNotContain(lines, line => line.StartsWith("FIX", StringComparison.Ordinal));
        }
        else
        {
            Assert.Equal(1, result.ExitCode);
            Assert.Contains(lines, line => line.StartsWith("FIX", StringComparison.Ordinal));
            Assert.Matches("^[0-9]+ things? to fix:$", lines[subjects.Length]);
            Assert.StartsWith("1. ", lines[subjects.Length + 1], StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Doctor_RanksBoundToOneCore_SaysHowToUnbindThem()
    {
        Assert.SkipWhen(Environment.ProcessorCount < 2, "one core is all that there is");
        // mpiexec's own options stand before the program.
        ProgramResult result = RankTests
            .Launcher(MpiKind.OpenMpi)
            .Run(2, "--bind-to", ["core", "--cpu-set", "0", Repository.LongNet, "doctor"]);
        Assert.Equal(1, result.ExitCode);
        string[] lines = result.Output.TrimEnd().Split('\n');
        Assert.Contains("FIX   affinity       ranks 0-1: processor 0, 1 thread", lines);
        Assert.Matches(
            @"^[0-9]+\. On .+ ranks 0-1 may run on 1 processor of [0-9]+ only \(0\), so that they take turns "
                + @"and wait for each other\. "
                + @"Open MPI binds ranks unless told otherwise: source scripts/mpi-environment\.sh, which sets "
                + @"OMPI_MCA_hwloc_base_binding_policy=none in the environment of mpiexec, "
                + @"or start with mpiexec --bind-to none; and without taskset\.$",
            Assert.Single(lines, line =>
                line.Contains("take turns", StringComparison.Ordinal)
                && line.Contains("may run", StringComparison.Ordinal)
            )
        );
        Assert.NotEqual("ready", lines[^1]);
    }

    [Fact]
    public void Doctor_MoreRanksThanCores_SaysHowManyToStart()
    {
        int processors = Distributed.Launch.CpuThreads.Processors().Machine;
        Assert.SkipWhen(processors > 4, "so many ranks would take minutes to start");
        ProgramResult result = RankTests.Launcher(MpiKind.OpenMpi).Run(processors + 1, Repository.LongNet, ["doctor"]);
        Assert.Equal(1, result.ExitCode);
        Assert.Matches(
            @"(?m)^[0-9]+\. .+ has fewer processors than ranks, which take turns and wait for each other: "
                + $@"start at most {processors} ranks? there\.$",
            result.Output
        );
    }

    [Fact]
    public void Doctor_LibraryOfAnotherMpi_IsToldOnceWithWhatIsKnown()
    {
        _ = RankTests.Launcher(MpiKind.OpenMpi);
        ProgramResult result = RankTests
            .Launcher(MpiKind.Mpich)
            .Run(
                2,
                Repository.LongNet,
                ["doctor"],
                environment: new Dictionary<string, string?> { ["LONGNET_MPI_LIBRARY"] = "libmpi.so.40" }
            );
        Assert.Equal(1, result.ExitCode);
        string[] lines = result.Output.TrimEnd().Split('\n');
        Assert.Single(lines, "FIX   start          ranks cannot start");
        Assert.EndsWith(
            ". MPICH's mpiexec started 2 ranks, but the MPI library libmpi.so.40 (Open MPI) sees 1: library "
                + "and launcher belong to different MPIs. "
                + "Use the mpiexec of that library, or set LONGNET_MPI_LIBRARY to the launcher's library.",
            lines[^1],
            StringComparison.Ordinal
        );
        Assert.Contains("cores", Values(lines).Keys);
    }

    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 2)]
    public void Doctor_AsJson_DescribesAMachineThatPlanReads(MpiKind kind, int ranks)
    {
        using var folder = new TemporaryFolder();
        ProgramResult result = RankTests.Launcher(kind).Run(ranks, Repository.LongNet, ["doctor", "--json"]);
        JsonElement report = JsonElement.Parse(result.Output);
        Assert.Equal(result.ExitCode == 0, report.GetProperty("ready").GetBoolean());
        Assert.Contains(
            "cores",
            report
                .GetProperty("findings")
                .EnumerateArray()
                .Select(finding => finding.GetProperty("subject").GetString())
        );
        JsonElement machine = report.GetProperty("machine");
        Assert.Equal(ranks, machine.GetProperty("ranks_per_host").GetInt32());
        Assert.InRange(machine.GetProperty("disk_write").GetDouble(), 1e5, 1e12);
        Assert.InRange(machine.GetProperty("all_gather_bandwidth").GetDouble(), 1e5, 1e12);
        ProgramRun
            .ToEnd(
                TimeSpan.FromMinutes(1),
                Repository.LongNet,
                [
                    "plan",
                    "--config",
                    "quickstart",
                    "--ranks",
                    $"{ranks}",
                    "--machine",
                    folder.Write("machine.json", result.Output),
                ]
            )
            .AssertSuccess();
    }

    // Value by subject, in order; a subject that is reported twice fails.
    private static Dictionary<string, string> Values(string[] lines)
    {
        var values = new Dictionary<string, string>();
        foreach (
            Match match in lines
                .Select(line => Regex.Match(line, "^(?:ok  |note|FIX )  (.{13})  (.*)$"))
                .Where(match => match.Success)
        )
            values.Add(match.Groups[1].Value.Trim(), match.Groups[2].Value);
        return values;
    }
}
