using LongNet.Core.Devices;
using LongNet.Core.Native;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Launch;
using LongNet.Distributed.Lifetime;
using LongNet.TestKit;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Tests.Ranks;
using Microsoft.Extensions.Time.Testing;

namespace LongNet.Trainer.Tests.Loop;

/// <summary>A real run on one rank, in this process, whose clock moves only when it is read.</summary>
public sealed class TrainingRunTests : IDisposable
{
    private static readonly DateTimeOffset ProcessStart = new(2024, 2, 29, 23, 0, 0, TimeSpan.Zero);

    private readonly TemporaryFolder folder = new();

    // Every reading is a second later than the one before.
    private readonly FakeTimeProvider clock = new(ProcessStart) { AutoAdvanceAmount = TimeSpan.FromSeconds(1) };

    public void Dispose() => folder.Dispose();

    [Fact]
    public void TimeLimit_Over_StopsWithACheckpointAndIsResumed()
    {
        var (finished, output) = Run(6, "none", "training.time_limit_minutes=0.25");
        Assert.False(finished);
        int step = TrainingJob.Values(folder["run"], "loss").Length;
        Assert.InRange(step, 1, 5);
        Assert.Contains(
            $"stopping after step {step} of 6: 0.25 minutes (training.time_limit_minutes) are over\n",
            output,
            StringComparison.Ordinal
        );
        Assert.Equal([step], Checkpoints.Steps());

        (finished, output) = Run(6, "auto");
        Assert.True(finished);
        Assert.Contains($"resuming from {Checkpoints.PathOf(step)} (step {step}, ", output, StringComparison.Ordinal);
        Assert.DoesNotContain("stopping", output, StringComparison.Ordinal);
        Assert.Equal([1, 2, 3, 4, 5, 6], TrainingJob.Values(folder["run"], "loss", "step"));
    }

    [Fact]
    public void TimeLimit_OverAtTheLastStep_IsAnOrdinaryEnd()
    {
        clock.Advance(TimeSpan.FromHours(1));
        string limit = "training.time_limit_minutes=0.001";
        var (finished, output) = Run(1, "none", limit);
        Assert.True(finished);
        Assert.DoesNotContain("stopping", output, StringComparison.Ordinal);
        (finished, output) = Run(3, "auto", limit);
        Assert.False(finished);
        Assert.Contains(
            "stopping after step 2 of 3: 0.001 minutes (training.time_limit_minutes) are over\n",
            output,
            StringComparison.Ordinal
        );
        Assert.Equal([1, 2], Checkpoints.Steps());
    }

    [Fact]
    public void EveryMinutes_Over_SavesAtTheEndOfAStep()
    {
        // Longer than a step by this clock, and shorter than six.
        var (finished, _) = Run(6, "none", "checkpoint.every_minutes=0.15");
        Assert.True(finished);
        IReadOnlyList<long> steps = Checkpoints.Steps();
        Assert.InRange(steps.Count, 2, 5);
        Assert.Equal(6, steps[^1]);
    }

    [Fact]
    public void LastStep_Done_SaysThatThereIsNothingToDo()
    {
        Assert.True(Run(1, "none").Finished);
        var (finished, output) = Run(1, "auto");
        Assert.True(finished);
        Assert.Contains(
            "Nothing to do: step 1 of 1 is done. Raise training.steps (--set training.steps=N) to train on.\n",
            output,
            StringComparison.Ordinal
        );
    }

    private CheckpointStore Checkpoints => new(folder["run/checkpoints"]);

    private (bool Finished, string Output) Run(long steps, string resume, params string[] settings)
    {
        LibTorch.Load();
        using DistributedRuntime runtime = DistributedRuntime.Start(new RankEnvironment(RankLauncher.None, 0, 1, 0, 1));
        RunConfig config = ConfigurationFile.Load(
            Repository.PathOf("configs/ranks-agree.yaml"),
            ["evaluation.every_steps=0", .. settings]
        );
        RunPlan plan = RunPlan.Open(config with { Output = folder["run"] }, runtime.World.Size);
        using var mesh = new DeviceMesh(runtime.World, plan.DataRanks, plan.SequenceRanks);
        using var output = new StringWriter();
        var context = new RunContext
        {
            Plan = plan,
            Mesh = mesh,
            Runtime = runtime,
            Device = ComputeDevice.Cpu,
            ProcessSettings = "in a test",
            LastStep = steps,
            Resume = resume,
            Console = output,
            ProcessStart = ProcessStart,
            Clock = clock,
        };
        bool finished = new TrainingRun(context).Run();
        return (finished, output.ToString());
    }
}
