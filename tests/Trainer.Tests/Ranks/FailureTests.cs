using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>
/// A rank that fails in the middle of training ends the whole job in time, standard error says which and why, and the
/// last checkpoint is whole and goes on.
/// </summary>
[Trait("Category", "machine")]
public partial class FailureTests
{
    private const int Steps = 6,
        FailingStep = 5,
        LastCheckpoint = 4;

    private const double TimeoutSeconds = 6;

    // What a job may take to end beyond its timeout, from the strike.
    private static readonly TimeSpan Grace = TimeSpan.FromSeconds(10);

    private static readonly string[] Settings =
    [
        // Whole when the step after it begins, so that it is known which one a run goes on from.
        "--set",
        "checkpoint.asynchronous=false",
        "--set",
        $"training.steps={Steps}",
        "--set",
        "checkpoint.every_steps=2",
        "--set",
        "evaluation.every_steps=0",
        "--set",
        $"parallel.timeout_seconds={TimeoutSeconds}",
    ];

    [Theory]
    [InlineData(
        MpiKind.OpenMpi,
        2,
        "throw:1:5:forward",
        "longnet: rank 1: System.InvalidOperationException: LONGNET_FAULT struck in forward of step 5."
    )]
    [InlineData(
        MpiKind.Mpich,
        4,
        "throw:3:5:forward",
        "longnet: rank 3: System.InvalidOperationException: LONGNET_FAULT struck in forward of step 5."
    )]
    [InlineData(
        MpiKind.OpenMpi,
        2,
        "throw:1:5:backward",
        "longnet: rank 1: System.InvalidOperationException: LONGNET_FAULT struck in backward of step 5."
    )]
    [InlineData(
        MpiKind.Mpich,
        2,
        "throw:1:5:backward",
        "longnet: rank 1: System.InvalidOperationException: LONGNET_FAULT struck in backward of step 5."
    )]
    [InlineData(
        MpiKind.OpenMpi,
        4,
        "throw:2:5:data",
        "longnet: rank 2: System.InvalidOperationException: LONGNET_FAULT struck in data of step 5."
    )]
    [InlineData(
        MpiKind.Mpich,
        2,
        "throw:0:5:data",
        "longnet: rank 0: System.InvalidOperationException: LONGNET_FAULT struck in data of step 5."
    )]
    [InlineData(
        MpiKind.OpenMpi,
        2,
        "throw:0:6:checkpoint",
        "longnet: rank 0: System.InvalidOperationException: LONGNET_FAULT struck in checkpoint of step 6."
    )]
    [InlineData(
        MpiKind.Mpich,
        2,
        "throw:0:6:checkpoint",
        "longnet: rank 0: System.InvalidOperationException: LONGNET_FAULT struck in checkpoint of step 6."
    )]
    [InlineData(
        MpiKind.OpenMpi,
        4,
        "exit:1:5:optimizer",
        "longnet: rank 1: left without finishing; ending the job with code 86."
    )]
    [InlineData(
        MpiKind.Mpich,
        2,
        "exit:1:5:optimizer",
        "longnet: rank 1: left without finishing; ending the job with code 86."
    )]
    [InlineData(MpiKind.OpenMpi, 2, "kill:1:5:backward", "longnet: rank 1 (")]
    [InlineData(MpiKind.Mpich, 2, "kill:0:5:backward", "longnet: rank 0 (")]
    [InlineData(
        MpiKind.OpenMpi,
        2,
        "stop:1:5:forward",
        "rank 1 did not answer within 3 s, so its process is stopped or dead or its machine is out of reach"
    )]
    [InlineData(
        MpiKind.Mpich,
        4,
        "stop:0:5:backward",
        "rank 0 did not answer within 3 s, so its process is stopped or dead or its machine is out of reach"
    )]
    [InlineData(MpiKind.OpenMpi, 2, "hang:1:5:optimizer", ") never called it: it is at \"step 5: optimizer\", since ")]
    public void Train_WhereARankFails_EndsTheJobAndResumes(MpiKind kind, int ranks, string fault, string told)
    {
        using var folder = new TemporaryFolder();
        Strike(kind, ranks, folder["run"], fault, told, Settings);
    }

    public static TheoryData<MpiKind, int, string, string> EveryFailure
    {
        get
        {
            var all = new TheoryData<MpiKind, int, string, string>();
            foreach (MpiKind kind in new[] { MpiKind.OpenMpi, MpiKind.Mpich })
            {
                foreach (int ranks in new[] { 2, 4 })
                {
                    int last = ranks - 1;
                    foreach (string place in new[] { "data", "forward", "backward", "optimizer" })
                        all.Add(
                            kind,
                            ranks,
                            $"throw:{last}:5:{place}",
                            $"longnet: rank {last}: System.InvalidOperationException: LONGNET_FAULT struck "
                                + $"in {place} of step 5."
                        );
                    all.Add(
                        kind,
                        ranks,
                        "throw:0:6:checkpoint",
                        "longnet: rank 0: System.InvalidOperationException: LONGNET_FAULT struck in "
                            + "checkpoint of step 6."
                    );
                    all.Add(kind, ranks, "kill:0:6:checkpoint", "longnet: rank 0 (");
                    all.Add(kind, ranks, $"kill:{last}:5:backward", $"longnet: rank {last} (");
                    all.Add(
                        kind,
                        ranks,
                        $"stop:{last}:5:forward",
                        $"rank {last} did not answer within 3 s, so its process is stopped or dead or its "
                            + "machine is out of reach"
                    );
                    all.Add(
                        kind,
                        ranks,
                        $"exit:{last}:5:optimizer",
                        $"longnet: rank {last}: left without finishing; ending the job with code 86."
                    );
                }
            }

            return all;
        }
    }

    [Theory]
    [Trait("Category", "slow")]
    [MemberData(nameof(EveryFailure))]
    public void Train_WhereARankFailsInAnyWayOnAnyJob_EndsTheJobAndResumes(
        MpiKind kind,
        int ranks,
        string fault,
        string told
    )
    {
        using var folder = new TemporaryFolder();
        Strike(kind, ranks, folder["run"], fault, told, Settings);
    }

    // Every rank writes its shard: one of them is gone in the middle.
    [Theory]
    [InlineData(
        MpiKind.OpenMpi,
        2,
        "throw:1:6:checkpoint",
        "longnet: rank 1: System.InvalidOperationException: LONGNET_FAULT struck in checkpoint of step 6."
    )]
    [InlineData(MpiKind.Mpich, 2, "kill:1:6:checkpoint", "longnet: rank 1 (")]
    public void Train_WhereARankFailsInItsShardOfACheckpoint_EndsTheJobAndResumes(
        MpiKind kind,
        int ranks,
        string fault,
        string told
    )
    {
        using var folder = new TemporaryFolder();
        Strike(kind, ranks, folder["run"], fault, told, [.. Settings, "--set", "parallel.shard_optimizer=true"]);
    }

    [Fact]
    public void FlightRecord_OfAJobThatHung_SaysWhichRankAndWhere()
    {
        using var folder = new TemporaryFolder();
        Assert.Equal(87, Run(MpiKind.OpenMpi, 2, folder["run"], $"hang:1:{FailingStep}:optimizer", Settings).ExitCode);
        ProgramResult read = RankTests
            .Launcher(MpiKind.None)
            .Run(1, Repository.LongNet, ["flight-record", folder["run"], "--last", "3"])
            .AssertSuccess();
        string[] lines = read.Output.Split('\n');
        Assert.Matches(
            """^All-gather #\d+ of the group 'world' \(\[1\] Byte\) did not finish: rank 1 \(\S+, process """
                + """\d+\) never called it: it is at "step 5: optimizer", since \d+ s, and its last was all-gather """
                + """#\d+ of the group 'world' \(.*\); rank 0 waits in it at """
                + """StepConsensus\.cs:\d+, step 5: agreeing on whether to go on\.$""",
            lines[0]
        );
        Assert.Equal(2, lines.Count(line => line.StartsWith("rank ", StringComparison.Ordinal)));
        Assert.Equal(6, lines.Count(line => line.StartsWith("  ", StringComparison.Ordinal)));
    }

    [Fact]
    public void FlightRecord_WhereThereIsNone_SaysSo()
    {
        using var folder = new TemporaryFolder();
        ProgramResult result = RankTests
            .Launcher(MpiKind.None)
            .Run(1, Repository.LongNet, ["flight-record", folder.Path]);
        Assert.Equal(2, result.ExitCode);
        Assert.Equal(
            $"longnet: {folder.Path} has no flight records: name a run directory such as runs/NAME whose "
                + "job ended in an error, or its folder flight-record.\n",
            result.Error
        );
    }

    // A disk that refuses is a mistake that all ranks end by alike.
    [Theory]
    [InlineData(MpiKind.OpenMpi, 2)]
    [InlineData(MpiKind.Mpich, 4)]
    public void Train_WhereACheckpointCannotBeWritten_EndsAndResumes(MpiKind kind, int ranks)
    {
        using var folder = new TemporaryFolder();
        string inTheWay = folder.Write("run/checkpoints/.step-00000006.partial", "a file where a folder must be made");
        ProgramResult result = Run(kind, ranks, folder["run"], null, Settings);
        Assert.Equal(2, result.ExitCode);
        Assert.Contains(
            $"longnet: The checkpoint of step 6 cannot be written to {folder["run/checkpoints"]}: ",
            result.Error,
            StringComparison.Ordinal
        );
        File.Delete(inTheWay);
        Run(kind, ranks, folder["run"], null, [.. Settings, "--resume", "auto"]).AssertSuccess();
        Assert.Equal("step-00000006\n", File.ReadAllText(folder["run/checkpoints/LATEST"]));
    }

    [Theory]
    [InlineData(MpiKind.OpenMpi, 2)]
    [InlineData(MpiKind.OpenMpi, 4)]
    [InlineData(MpiKind.Mpich, 2)]
    [InlineData(MpiKind.Mpich, 4)]
    public void Train_WhereRanksHaveDifferentConfigurations_EndsBeforeAnything(MpiKind kind, int ranks)
    {
        using var folder = new TemporaryFolder();
        IEnumerable<string> Arguments(string rate) =>
            TrainingJob.RanksAgreeArguments(1, ranks, folder["run"], [.. Settings, "--set", $"optimizer.lr={rate}"]);
        ProgramResult result = RankTests
            .Launcher(kind)
            .Run(
                ranks - 1,
                Repository.LongNet,
                [.. Arguments("1e-3"), ":", "-n", "1", Repository.LongNet, .. Arguments("2e-3")]
            );
        Assert.Equal(2, result.ExitCode);
        Assert.Matches(
            $"""^longnet: Rank {ranks - 1}: the configuration or the text here \(.*\) is not that of rank 0: """
                + """give every machine the same files\.\n""",
            result.Error
        );
        Assert.False(Directory.Exists(folder["run"]));
    }

    // The last rank's program is the same with another version in it.
    [Theory]
    [InlineData(MpiKind.OpenMpi, 2)]
    [InlineData(MpiKind.OpenMpi, 4)]
    [InlineData(MpiKind.Mpich, 2)]
    [InlineData(MpiKind.Mpich, 4)]
    public void Train_WhereRanksRunDifferentVersions_EndsBeforeAnything(MpiKind kind, int ranks)
    {
        using var folder = new TemporaryFolder();
        string other = OtherVersion(folder["program"]);
        string[] arguments = [.. TrainingJob.RanksAgreeArguments(1, ranks, folder["run"], Settings)];
        ProgramResult result = RankTests
            .Launcher(kind)
            .Run(ranks - 1, Repository.LongNet, [.. arguments, ":", "-n", "1", other, .. arguments]);
        Assert.Equal(2, result.ExitCode);
        Assert.Matches(
            $"""^longnet: Rank {ranks - 1} runs longnet 9\.1\.0\S* \(build \w+\), and rank 0 runs longnet """
                + """0\.1\.0\S* \(build \w+\): give every machine the same program\.\n""",
            result.Error
        );
        Assert.False(Directory.Exists(folder["run"]));
    }

    private static string OtherVersion(string folder)
    {
        string program = Path.GetDirectoryName(Repository.LongNet)!;
        Directory.CreateDirectory(folder);
        foreach (string entry in Directory.EnumerateFileSystemEntries(program))
            File.CreateSymbolicLink(Path.Combine(folder, Path.GetFileName(entry)), entry);
        foreach (string copied in new[] { "longnet", "longnet.dll", "longnet.deps.json", "longnet.runtimeconfig.json" })
        {
            File.Delete(Path.Combine(folder, copied));
            File.Copy(Path.Combine(program, copied), Path.Combine(folder, copied));
        }

        string library = Path.Combine(folder, "longnet.dll");
        byte[] bytes = File.ReadAllBytes(library),
            version = Encoding.UTF8.GetBytes("0.1.0");
        int patched = 0;
        for (int place = bytes.AsSpan().IndexOf(version); place >= 0; )
        {
            bytes[place] = (byte)'9';
            patched++;
            int next = bytes.AsSpan(place + 1).IndexOf(version);
            place = next < 0 ? -1 : place + 1 + next;
        }

        Assert.True(patched > 0, $"{library} does not have its version in it");
        File.WriteAllBytes(library, bytes);
        return Path.Combine(folder, "longnet");
    }

    private static void Strike(MpiKind kind, int ranks, string output, string fault, string told, string[] settings)
    {
        ProgramResult result = Run(kind, ranks, output, fault, settings);
        DateTime end = DateTime.UtcNow;
        Assert.NotEqual(0, result.ExitCode);
        Assert.Contains(
            told,
            Assert.Single(result.Error.Split('\n'), line => line.StartsWith("longnet: ", StringComparison.Ordinal)),
            StringComparison.Ordinal
        );
        Match struck = StrikeTime().Match(result.Output);
        Assert.True(struck.Success, $"{result}");
        TimeSpan took =
            end - DateTime.Parse(struck.Groups[1].Value, CultureInfo.InvariantCulture, DateTimeStyles.RoundtripKind);
        Assert.True(
            took < TimeSpan.FromSeconds(TimeoutSeconds) + Grace,
            $"the job ended {took.TotalSeconds:F1} s after the rank\n{result}"
        );

        ProgramResult resumed = Run(kind, ranks, output, null, [.. settings, "--resume", "auto"]).AssertSuccess();
        Assert.Contains($"(step {LastCheckpoint}, written by", resumed.Output, StringComparison.Ordinal);
        Assert.Equal(
            Enumerable.Range(1, Steps).Select(step => (double)step),
            TrainingJob.Values(output, "loss", "step")
        );
    }

    [GeneratedRegex(@"LONGNET_FAULT: .* at (\S+Z)")]
    private static partial Regex StrikeTime();

    private static ProgramResult Run(MpiKind kind, int ranks, string output, string? fault, string[] settings) =>
        RankTests
            .Launcher(kind)
            .Run(
                ranks,
                Repository.LongNet,
                TrainingJob.RanksAgreeArguments(1, ranks, output, settings),
                environment: new Dictionary<string, string?> { ["LONGNET_FAULT"] = fault }
            );
}
