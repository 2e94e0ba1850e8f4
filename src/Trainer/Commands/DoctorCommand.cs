using System.CommandLine;
using System.Text.Json;
using LongNet.Core;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Launch;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Doctor;
using LongNet.Trainer.Planning.Machines;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Commands;

/// <summary>
/// longnet doctor: whether the ranks that mpiexec started can train here, and what to fix where they cannot.
/// </summary>
internal static class DoctorCommand
{
    /// <summary>Exit code where something is to be fixed.</summary>
    private const int NotReady = 1;

    // The paper's shape, for machines that are described without a configuration.
    private const long MeasuredChannels = 768,
        MeasuredHidden = 3072,
        MeasuredHeads = 12;

    public static Command Create()
    {
        var command = new Command(
            "doctor",
            "Looks at the machine, the libraries and the exchange between the ranks that mpiexec started. "
                + "Ends with \"ready\" (exit code 0) or with what to fix (1)"
        );
        var json = new Option<bool>("--json")
        {
            Description =
                "Prints the findings as JSON, and what longnet plan --machine reads: a few seconds of measuring",
        };
        command.Options.Add(json);
        command.SetAction(parsed =>
            RankProgram.Run(
                runtime => Examine(runtime, parsed.GetValue(json)),
                (environment, error) => NotStarted(environment, error, parsed.GetValue(json))
            )
        );
        return command;
    }

    // Collective. All ranks return the same.
    private static int Examine(DistributedRuntime runtime, bool asJson)
    {
        var settings = ProcessSettings.Apply(new RuntimeConfig(), runtime.Environment);
        RankFacts own = RankFacts.Collect(runtime.Environment, libTorchLoaded: true, runtime.Mpi, settings);
        RankFacts[] ranks =
        [
            .. ObjectCollectives
                .AllGatherText(runtime.World, JsonSerializer.Serialize(own))
                .Select(text => JsonSerializer.Deserialize<RankFacts>(text)!),
        ];
        IReadOnlyList<Finding> findings =
        [
            .. Checks(ranks),
            .. CommunicationChecks.Of(runtime.World, ranks.Select(rank => rank.Host).Distinct().Count()),
        ];
        Machine? machine = asJson
            ? MachineMeasurement.Run(
                runtime.World,
                runtime.Environment.LocalSize,
                (MeasuredChannels, MeasuredHidden, MeasuredHeads),
                Path.GetTempPath()
            )
            : null;
        if (runtime.Environment.IsRoot)
            Console.Write(asJson ? DoctorReport.Json(findings, machine) : DoctorReport.Text(findings));
        // What is measured is the same on all ranks, but clocks are read by each.
        return
            ObjectCollectives.BroadcastText(runtime.World, DoctorReport.IsReady(findings) ? DoctorReport.Ready : "", 0)
            == DoctorReport.Ready
            ? 0
            : NotReady;
    }

    // Where ranks cannot connect, rank 0 reports on its own machine, and the first rank of each other machine reports
    // its error.
    private static int NotStarted(RankEnvironment? environment, UserException mistake, bool asJson)
    {
        if (environment is { Rank: > 0 })
        {
            if (environment.LocalRank == 0)
                Console.Error.WriteLine($"longnet: rank {environment.Rank}: {mistake.Message}");
            return NotReady;
        }

        RankFacts own = RankFacts.Collect(
            environment ?? new RankEnvironment(RankLauncher.None, 0, 1, 0, 1),
            libTorchLoaded: false,
            mpi: null,
            settings: null
        );
        Finding[] findings = [.. Checks([own]), Finding.ToFix("start", "ranks cannot start", mistake.Message)];
        Console.Write(asJson ? DoctorReport.Json(findings, machine: null) : DoctorReport.Text(findings));
        Console.Out.Flush();
        return NotReady;
    }

    private static IEnumerable<Finding> Checks(IReadOnlyList<RankFacts> ranks) =>
        [.. SoftwareChecks.Of(ranks), .. ProcessorChecks.Of(ranks), .. MemoryChecks.Of(ranks), .. GpuChecks.Of(ranks)];
}
