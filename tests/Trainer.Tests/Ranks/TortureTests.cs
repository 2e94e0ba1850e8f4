using System.Diagnostics;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>A run that is killed again and again is the run that was never killed.</summary>
public sealed class TortureTests : IDisposable
{
    // Dropout, so that random choices are part of the proof; a checkpoint every other step, so that many kills strike a
    // save; kernels that depend on nothing but the shapes.
    private static readonly string[] Settings =
    [
        "--set",
        "checkpoint.every_steps=2",
        "--set",
        "checkpoint.keep_last=3",
        "--set",
        "checkpoint.keep_every=20",
        "--set",
        "evaluation.every_steps=6",
        "--set",
        "model.dropout=0.1",
        "--set",
        "training.batch_size=8",
        "--set",
        "logging.every_steps=1",
    ];

    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Theory]
    [InlineData(MpiKind.OpenMpi, false, 20, 2, 1)]
    public void Train_KilledAtRandomMoments_IsBitwiseTheRunThatWasNot(
        MpiKind kind,
        bool sharded,
        int steps,
        int kills,
        int seed
    ) => Torture(kind, sharded, steps, kills, seed);

    [Theory]
    [InlineData(MpiKind.OpenMpi, false, 300, 40, 2)]
    [InlineData(MpiKind.Mpich, true, 300, 40, 3)]
    [Trait("Category", "slow")]
    public void Train_KilledFortyTimes_IsBitwiseTheRunThatWasNot(
        MpiKind kind,
        bool sharded,
        int steps,
        int kills,
        int seed
    ) => Torture(kind, sharded, steps, kills, seed);

    private void Torture(MpiKind kind, bool sharded, int steps, int kills, int seed)
    {
        string[] settings =
        [
            .. Settings,
            "--set",
            $"training.steps={steps}",
            "--set",
            $"parallel.shard_optimizer={(sharded ? "true" : "false")}",
        ];
        TrainingJob.RanksAgree(kind, 1, 2, folder["straight"], settings);
        var random = new Random(seed);
        string run = folder["killed"],
            last = $"checkpoints/step-{steps:D8}",
            told = "";
        int duringSaves = 0;
        for (int kill = 0; kill < kills; kill++)
        {
            // Every third waits for a save to strike. What the kill before has left of one is none.
            bool duringSave = kill % 3 == 1;
            string[] leftovers = Saving(run);
            using ProgramRun job = RankTests
                .Launcher(kind)
                .Start(
                    2,
                    Repository.LongNet,
                    TrainingJob.RanksAgreeArguments(1, 2, run, [.. settings, "--resume", "auto"])
                );
            var clock = Stopwatch.StartNew();
            // Some strike before the first step is done, while a checkpoint is read.
            bool early = random.Next(8) == 0;
            // It first removes the lines of steps that it will do again.
            long least = LastStep(run);
            while (!early && LastStep(run) <= least)
            {
                least = Math.Min(least, LastStep(run));
                Wait("no step");
            }

            var delay = TimeSpan.FromMilliseconds(early ? random.Next(1500) : random.Next(250));
            if (duringSave && !early)
            {
                while (!IsSaving())
                    Wait("no save");
                delay = TimeSpan.FromMilliseconds(random.Next(4));
            }

            Thread.Sleep(delay);
            bool saving = IsSaving();
            // One rank, the launcher takes the other down; or all of it at once, as a machine that is lost.
            int victim = random.Next(3);
            bool struck = victim < 2 && Kill(run, victim);
            if (!struck)
                job.Kill();
            else
                job.Wait(TimeSpan.FromMinutes(1));
            duringSaves += saving ? 1 : 0;
            told +=
                $"kill {kill}: after step {LastStep(run)}, "
                + $"{(saving ? "during a save, " : "")}{(struck ? $"rank {victim}" : "all")}\n";

            bool IsSaving()
            {
                string[] now = Saving(run);
                // The run removes them when it starts, and may save the same step again.
                leftovers = [.. leftovers.Intersect(now)];
                return now.Except(leftovers).Any();
            }

            void Wait(string what)
            {
                if (job.HasExited)
                    Assert.Fail(
                        $"seed {seed}, kill {kill}: the run ended by itself\n{told}{job.Wait(TimeSpan.FromMinutes(1))}"
                    );
                Assert.True(
                    clock.Elapsed < TimeSpan.FromMinutes(2),
                    $"seed {seed}, kill {kill}: {what} within two minutes\n{told}"
                );
                Thread.Sleep(1);
            }
        }

        Assert.True(duringSaves > kills / 8, $"only {duringSaves} of {kills} kills struck a save\n{told}");
        TrainingJob.RanksAgree(kind, 1, 2, run, [.. settings, "--resume", "auto"]);
        foreach (
            string file in Directory
                .GetFiles(folder[$"straight/{last}"], "*.safetensors")
                .Select(path => Path.GetFileName(path)!)
        )
            Assert.True(
                File.ReadAllBytes(folder[$"straight/{last}/{file}"])
                    .AsSpan()
                    .SequenceEqual(File.ReadAllBytes(folder[$"killed/{last}/{file}"])),
                $"seed {seed}: {file} differs\n{told}"
            );
        // Every step once, with the same bits.
        foreach (string key in new[] { "loss", "grad_norm", "lr", "tokens", "eval_loss" })
            Assert.Equal(TrainingJob.Values(folder["straight"], key), TrainingJob.Values(run, key));
        Assert.Equal(Enumerable.Range(1, steps).Select(step => (double)step), TrainingJob.Values(run, "loss", "step"));
        foreach (string each in new[] { "straight", "killed" })
        {
            Assert.Equal(
                [
                    "BEST",
                    "LATEST",
                    .. Enumerable
                        .Range(1, steps / 20)
                        .Select(kept => kept * 20L)
                        .Concat([Best(each), steps - 4, steps - 2, steps])
                        .Distinct()
                        .Order()
                        .Select(step => $"step-{step:D8}"),
                ],
                Directory
                    .GetFileSystemEntries(folder[$"{each}/checkpoints"])
                    .Select(Path.GetFileName)
                    .Order(StringComparer.Ordinal)
            );
        }
    }

    // False where it has not started yet.
    private static bool Kill(string run, int rank)
    {
        try
        {
            ProgramRun.Signal(ProgramRun.FindRank(Repository.LongNet, run, rank), "SIGKILL");
            return true;
        }
        catch (InvalidOperationException)
        {
            return false;
        }
    }

    private static string[] Saving(string run) =>
        Directory.Exists(Path.Combine(run, "checkpoints"))
            ? Directory.GetDirectories(Path.Combine(run, "checkpoints"), ".step-*.partial")
            : [];

    private static long LastStep(string run) =>
        !File.Exists(Path.Combine(run, "metrics.jsonl"))
            ? 0
            : File.ReadLines(Path.Combine(run, "metrics.jsonl"))
                .LongCount(line => line.Contains("\"loss\"", StringComparison.Ordinal) && line.EndsWith('}'));

    private long Best(string run) =>
        TrainingJob
            .Metrics(folder[run], "eval_loss")
            .Where(line => line.GetProperty("step").GetInt64() > 0)
            .MinBy(line => line.GetProperty("eval_loss").GetDouble())
            .GetProperty("step")
            .GetInt64();
}
