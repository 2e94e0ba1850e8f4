using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>
/// A run that is asked to stop saves a checkpoint after the step it is at and ends with its own code on all ranks;
/// resumed, it equals the one that never stopped.
/// </summary>
public sealed partial class PreemptionTests : IDisposable
{
    // More than any run here does, however fast the machine: Open MPI's mpiexec hands on SIGTERM a second late.
    private const int Steps = 100_000;

    // That a resumed run does.
    private const int MoreSteps = 10;

    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(1);

    // Dropout, so that random choices are part of the proof, and evaluations, which a stop must neither lose nor
    // repeat.
    private static readonly string[] Settings =
    [
        "--set",
        $"training.steps={Steps}",
        "--set",
        "model.dropout=0.1",
        "--set",
        "evaluation.every_steps=5",
        "--set",
        "runtime.threads=1",
    ];

    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    // "mpiexec", or the rank that the signal goes to. What mpiexec ends with when it was signalled itself is its own
    // affair.
    [Theory]
    [InlineData(MpiKind.None, "0", "SIGTERM", 75)]
    [InlineData(MpiKind.OpenMpi, "mpiexec", "SIGTERM", 1)]
    [InlineData(MpiKind.Mpich, "1", "SIGUSR1", 75)]
    public void Signal_InTraining_StopsAndResumesBitwiseTheSame(MpiKind kind, string target, string signal, int code) =>
        StopsAndResumes(kind, target, signal, code);

    public static TheoryData<MpiKind, string, string, int> EverySignal
    {
        get
        {
            var all = new TheoryData<MpiKind, string, string, int>();
            foreach (string signal in new[] { "SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2" })
            {
                all.Add(MpiKind.None, "0", signal, 75);
                foreach (MpiKind kind in new[] { MpiKind.OpenMpi, MpiKind.Mpich })
                {
                    foreach (string rank in new[] { "0", "1" })
                        all.Add(kind, rank, signal, 75);
                }

                all.Add(MpiKind.OpenMpi, "mpiexec", signal, signal is "SIGTERM" or "SIGINT" ? 1 : 75);
                // SIGUSR2 ends MPICH's mpiexec itself.
                if (signal != "SIGUSR2")
                    all.Add(MpiKind.Mpich, "mpiexec", signal, 75);
            }

            return all;
        }
    }

    [Theory]
    [Trait("Category", "slow")]
    [MemberData(nameof(EverySignal))]
    public void Signal_OfAnyKindToAnyProcess_StopsAndResumesBitwiseTheSame(
        MpiKind kind,
        string target,
        string signal,
        int code
    ) => StopsAndResumes(kind, target, signal, code);

    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 3)]
    [InlineData(MpiKind.Mpich, 3)]
    public void StepConsensus_OnWhatOneRankKnows_IsTheSameOnAll(MpiKind kind, int ranks) =>
        RankTests.RunScenario(kind, ranks, "step-consensus", folder.Path);

    // The first one is noted while a rank waits for one that hangs, so there is no step's end to stop at.
    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 2)]
    [InlineData(MpiKind.Mpich, 2)]
    public void Signal_ASecondTime_EndsAtOnce(MpiKind kind, int ranks)
    {
        using ProgramRun run = Start(
            kind,
            ranks,
            folder["run"],
            ["--set", "checkpoint.every_steps=2"],
            "hang:0:4:forward"
        );
        var clock = Stopwatch.StartNew();
        while (!run.Printed.Contains("LONGNET_FAULT: hang", StringComparison.Ordinal))
        {
            Assert.True(!run.HasExited && clock.Elapsed < Limit, "the run did not come to where it hangs");
            Thread.Sleep(5);
        }

        int process = kind == MpiKind.None ? run.Id : ProgramRun.FindRank(Repository.LongNet, folder["run"], 0);
        // Twice within half a second is one event: launchers pass a signal on more than once.
        ProgramRun.Signal(process, "SIGINT", 2);
        Thread.Sleep(1500);
        Assert.False(run.HasExited, "one signal ended the run");
        clock.Restart();
        ProgramRun.Signal(process, "SIGTERM");
        ProgramResult result = run.Wait(Limit);
        // It would else hang for ever. Open MPI's mpiexec takes a second for SIGTERM to the others and another for
        // SIGKILL.
        Assert.True(
            clock.Elapsed < TimeSpan.FromSeconds(10),
            $"the run ended {clock.Elapsed.TotalSeconds:F1} s after the second signal\n{result}"
        );
        Assert.NotEqual(0, result.ExitCode);
        Assert.NotEqual(75, result.ExitCode);
        if (kind == MpiKind.None)
            Assert.Equal(128 + 15, result.ExitCode);
        else
            Assert.Matches(
                @"^longnet: rank 0 \(\S+, process \d+\) was ended by SIGTERM\.$",
                Assert.Single(Lines(result.Error), line => line.StartsWith("longnet: ", StringComparison.Ordinal))
            );
        Assert.Equal("step-00000002\n", File.ReadAllText(folder["run/checkpoints/LATEST"]));
    }

    // Its launcher then sends SIGTERM to the others, which wait for the dead one in a collective: nothing can be saved.
    [Fact]
    [Trait("Category", "slow")]
    public void Signal_BecauseAnotherRankDied_EndsTheRankAtOnce()
    {
        using ProgramRun run = Start(
            MpiKind.OpenMpi,
            2,
            folder["run"],
            [],
            "kill:1:40:forward",
            new() { ["OMPI_MCA_odls_base_sigkill_timeout"] = "5" }
        );
        AwaitSteps(run, folder["run"], 3);
        int survivor = ProgramRun.FindRank(Repository.LongNet, folder["run"], 0);
        AwaitSteps(run, folder["run"], 39);
        var clock = Stopwatch.StartNew();
        while (ProgramRun.Runs(survivor))
            Thread.Sleep(5);
        // SIGTERM comes after 5 s, SIGKILL after 10.
        Assert.InRange(clock.Elapsed.TotalSeconds, 4, 8);
        ProgramResult result = run.Wait(Limit);
        Assert.NotEqual(75, result.ExitCode);
        Assert.Matches(
            @"^longnet: rank 1 \(\S+, process \d+\) was killed: ",
            Assert.Single(Lines(result.Error), line => line.StartsWith("longnet: ", StringComparison.Ordinal))
        );
    }

    [Fact]
    public void StopFile_InTraining_StopsAndIsRemoved()
    {
        using ProgramRun run = Start(MpiKind.None, 1, folder["run"], []);
        AwaitSteps(run, folder["run"], 3);
        string file = folder.Write("run/STOP", "");
        ProgramResult result = run.Wait(Limit);
        Assert.Equal(75, result.ExitCode);
        AssertStopped(result, folder["run"], $"there is a file {file}");
        Assert.False(File.Exists(file));
    }

    [Fact]
    public void StopFile_FromBeforeTheRun_IsRemovedWithANote()
    {
        string file = folder.Write("run/STOP", "");
        ProgramResult result = Run(MpiKind.None, "--steps", "3").AssertSuccess();
        Assert.Contains(
            $"note: removed {file}, which was there before the run and would have stopped it.",
            Lines(result.Output)
        );
        Assert.False(File.Exists(file));
        Assert.Equal(3, TrainingJob.Values(folder["run"], "loss").Length);
    }

    [Fact]
    public void TimeLimit_Over_StopsTheRun()
    {
        // 0.03 minutes: start and some steps.
        ProgramResult result = Run(MpiKind.None, "--set", "training.time_limit_minutes=0.03");
        Assert.Equal(75, result.ExitCode);
        AssertStopped(result, folder["run"], "0.03 minutes (training.time_limit_minutes) are over");
        Assert.InRange(result.Elapsed.TotalSeconds, 1.8, 30);
    }

    [Fact]
    public void TrainUntilDone_OfARunPreemptedTwice_FinishesIt()
    {
        using var run = new ProgramRun(
            Repository.PathOf("scripts/train-until-done.sh"),
            [
                "--run",
                folder["run"],
                "--",
                Repository.LongNet,
                .. Arguments(1, folder["run"], ["--steps", "40", "--resume", "auto"]),
            ]
        );
        foreach (int steps in new[] { 3, 20 })
        {
            AwaitSteps(run, folder["run"], steps);
            folder.Write("run/STOP", "");
            while (File.Exists(folder["run/STOP"]) && !run.HasExited)
                Thread.Sleep(5);
        }

        ProgramResult result = run.Wait(Limit).AssertSuccess();
        Assert.Equal(
            "train-until-done: it stopped early; starting it again.\ntrain-until-done: it stopped early; "
                + "starting it again.\n",
            result.Error
        );
        Assert.Equal(2, Stop().Count(result.Output));
        AssertSameAsStraight(MpiKind.None, 40);
    }

    [Fact]
    public void TrainUntilDone_Signalled_HandsItOnAndEndsWithTheCommandsCode()
    {
        using var run = new ProgramRun(
            Repository.PathOf("scripts/train-until-done.sh"),
            ["--", Repository.LongNet, .. Arguments(1, folder["run"], ["--resume", "auto"])]
        );
        AwaitSteps(run, folder["run"], 3);
        ProgramRun.Signal(run.Id, "SIGTERM");
        ProgramResult result = run.Wait(Limit);
        Assert.Equal(75, result.ExitCode);
        AssertStopped(result, folder["run"], "rank 0 received SIGTERM");
        Assert.Equal("", result.Error);
    }

    [Theory]
    [InlineData("exit 2", 2, "")]
    [InlineData(
        "exit 9",
        9,
        "it ended with code 9 without a new checkpoint (1 of 2); starting it again.|gave up after 2 "
            + "failures in a row without a new checkpoint; the last ended with code 9."
    )]
    // Three failures, of which the first brings a checkpoint.
    [InlineData(
        "mkdir -p $0/checkpoints/step-00000004; exit 9",
        9,
        "it ended with code 9 after it had saved the checkpoint of step 4; starting it again.|it ended with "
            + "code 9 without a new checkpoint (1 of 2); starting it again.|"
            + "gave up after 2 failures in a row without a new checkpoint; the last ended with code 9."
    )]
    // One that is set aside, or older, is none.
    [InlineData(
        "mkdir -p $0/checkpoints/step-00000009.damaged $0/checkpoints/step-00000003.damaged; [ ! -d "
            + "$0/checkpoints/step-00000004 ] || mkdir -p $0/checkpoints/step-00000003; mkdir -p "
            + "$0/checkpoints/step-00000004; exit 9",
        9,
        "it ended with code 9 after it had saved the checkpoint of step 4; starting it again.|it ended with "
            + "code 9 without a new checkpoint (1 of 2); starting it again.|"
            + "gave up after 2 failures in a row without a new checkpoint; the last ended with code 9."
    )]
    public void TrainUntilDone_OfACommandThatFails_GivesUpInTime(string command, int code, string told)
    {
        ProgramResult result = ProgramRun.ToEnd(
            Limit,
            Repository.PathOf("scripts/train-until-done.sh"),
            ["--max-failures", "2", "--run", folder["run"], "--", "bash", "-c", command, folder["run"]]
        );
        Assert.Equal(code, result.ExitCode);
        Assert.Equal(
            told.Split('|', StringSplitOptions.RemoveEmptyEntries).Select(line => $"train-until-done: {line}"),
            Lines(result.Error)
        );
    }

    private void StopsAndResumes(MpiKind kind, string target, string signal, int code)
    {
        int ranks = kind == MpiKind.None ? 1 : 2;
        using ProgramRun run = Start(kind, ranks, folder["run"], []);
        AwaitSteps(run, folder["run"], 3);
        bool toLauncher = target == "mpiexec" || kind == MpiKind.None;
        ProgramRun.Signal(
            toLauncher
                ? run.Id
                : ProgramRun.FindRank(
                    Repository.LongNet,
                    folder["run"],
                    int.Parse(target, CultureInfo.InvariantCulture)
                ),
            signal
        );
        ProgramResult result = run.Wait(Limit);
        // MPICH's mpiexec loses its ranks' code now and then when it has handed on a signal.
        if (kind != MpiKind.Mpich || target != "mpiexec" || result.ExitCode != 0)
            Assert.Equal(code, result.ExitCode);
        // Open MPI's mpiexec makes a SIGTERM of SIGINT. Which rank sees first what mpiexec sends to all is not
        // determined.
        string received = kind == MpiKind.OpenMpi && target == "mpiexec" && signal == "SIGINT" ? "SIGTERM" : signal;
        long step = AssertStopped(
            result,
            folder["run"],
            $"rank {(target == "mpiexec" ? "[01]" : target)} received {received}",
            isPattern: true
        );
        Assert.DoesNotContain(Lines(result.Error), line => line.StartsWith("longnet: ", StringComparison.Ordinal));
        Assert.False(Directory.Exists(folder["run/flight-record"]));

        ProgramResult resumed = Run(kind, "--resume", "auto", "--steps", $"{step + MoreSteps}").AssertSuccess();
        Assert.DoesNotContain("warning", resumed.Output, StringComparison.Ordinal);
        AssertSameAsStraight(kind, step + MoreSteps);
    }

    private ProgramResult Run(MpiKind kind, params string[] more)
    {
        using ProgramRun run = Start(kind, kind == MpiKind.None ? 1 : 2, folder["run"], more);
        return run.Wait(Limit);
    }

    // It stopped before its end, said so once, and its checkpoint is of the last step whose metrics there are.
    private static long AssertStopped(
        ProgramResult result,
        string output,
        string reason,
        int steps = Steps,
        bool isPattern = false
    )
    {
        Match said = Assert.Single(Stop().Matches(result.Output));
        long step = long.Parse(said.Groups[1].Value, CultureInfo.InvariantCulture);
        Assert.InRange(step, 1, steps - 1);
        Assert.Matches(
            $"^stopping after step {step} of {steps}: {(isPattern ? reason : Regex.Escape(reason))}$",
            said.Value.TrimEnd()
        );
        Assert.Equal($"step-{step:D8}\n", File.ReadAllText(Path.Combine(output, "checkpoints/LATEST")));
        Assert.Equal(
            Enumerable.Range(1, (int)step).Select(done => (double)done),
            TrainingJob.Values(output, "loss", "step")
        );
        return step;
    }

    private void AssertSameAsStraight(MpiKind kind, long steps)
    {
        using (ProgramRun run = Start(kind, kind == MpiKind.None ? 1 : 2, folder["straight"], ["--steps", $"{steps}"]))
            run.Wait(Limit).AssertSuccess();
        string end = $"checkpoints/step-{steps:D8}";
        foreach (string file in new[] { "model.safetensors", "optimizer-00000-of-00001.safetensors" })
            Assert.Equal(
                File.ReadAllBytes(Path.Combine(folder["straight"], end, file)),
                File.ReadAllBytes(Path.Combine(folder["run"], end, file))
            );
        // Every step and evaluation once, and with the same bits.
        foreach (string key in new[] { "loss", "grad_norm", "lr", "tokens", "eval_loss" })
            Assert.Equal(TrainingJob.Values(folder["straight"], key), TrainingJob.Values(folder["run"], key));
        Assert.Equal(steps, TrainingJob.Values(folder["run"], "loss").Length);
    }

    private static IEnumerable<string> Arguments(int ranks, string output, string[] more) =>
        TrainingJob.RanksAgreeArguments(1, ranks, output, [.. Settings, .. more]);

    private static ProgramRun Start(
        MpiKind kind,
        int ranks,
        string output,
        string[] more,
        string? fault = null,
        Dictionary<string, string?>? environment = null
    )
    {
        environment ??= [];
        environment["LONGNET_FAULT"] = fault;
        return RankTests
            .Launcher(kind)
            .Start(ranks, Repository.LongNet, Arguments(ranks, output, more), environment: environment);
    }

    private static void AwaitSteps(ProgramRun run, string output, int steps)
    {
        string metrics = Path.Combine(output, "metrics.jsonl");
        var clock = Stopwatch.StartNew();
        while (!File.Exists(metrics) || File.ReadAllText(metrics).Count(character => character == '\n') < steps)
        {
            Assert.True(!run.HasExited && clock.Elapsed < Limit, $"the run did not come to its step {steps}");
            Thread.Sleep(5);
        }
    }

    private static string[] Lines(string text) =>
        [.. text.Split('\n').Select(line => line.TrimEnd()).Where(line => line.Length > 0)];

    [GeneratedRegex(@"^stopping after step (\d+) of .*$", RegexOptions.Multiline)]
    private static partial Regex Stop();
}
