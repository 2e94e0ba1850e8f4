using LongNet.Distributed.Launch;
using LongNet.Distributed.Lifetime;
using LongNet.TestKit;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Runs;
using Microsoft.Extensions.Time.Testing;

namespace LongNet.Trainer.Tests.Loop;

/// <summary>On one rank, without a launcher; several ranks are the scenario stop-consensus.</summary>
public sealed class StopConsensusTests : IDisposable
{
    private static readonly DateTimeOffset ProcessStart = new(2024, 2, 29, 23, 0, 0, TimeSpan.Zero);

    private readonly TemporaryFolder folder = new();
    private readonly FakeTimeProvider clock = new(ProcessStart);
    private readonly DistributedRuntime runtime = DistributedRuntime.Start(
        new RankEnvironment(RankLauncher.None, 0, 1, 0, 1)
    );

    public void Dispose()
    {
        runtime.Dispose();
        folder.Dispose();
    }

    [Fact]
    public void TimeLimit_CountsFromTheStartOfTheProcess()
    {
        // Before the first step.
        clock.Advance(TimeSpan.FromMinutes(20));
        StopConsensus stop = Stop(minutes: 30);
        clock.Advance(TimeSpan.FromMinutes(9.99));
        Assert.False(Decide(stop).Stops);
        clock.Advance(TimeSpan.FromMinutes(0.01));
        StepDecision decision = Decide(stop);
        Assert.Equal((StopReason.TimeLimit, 0), (decision.Reason, decision.Rank));
        Assert.Equal("30 minutes (training.time_limit_minutes) are over", stop.Explain(decision));
    }

    [Fact]
    public void TimeLimit_OverBeforeTheFirstStep_StopsAfterIt()
    {
        clock.Advance(TimeSpan.FromHours(1));
        Assert.Equal(StopReason.TimeLimit, Decide(Stop(minutes: 0.001)).Reason);
    }

    [Fact]
    public void TimeLimit_WhereTheTimeOfDayIsSetBack_CountsAllTheSame()
    {
        var changed = new ChangedTimeOfDay(clock);
        var stop = new StopConsensus(runtime, Directory, new TimeLimit(10, ProcessStart, changed));
        changed.Offset = -TimeSpan.FromDays(1);
        clock.Advance(TimeSpan.FromMinutes(10));
        Assert.Equal(StopReason.TimeLimit, Decide(stop).Reason);
    }

    [Fact]
    public void TimeLimit_None_NeverStops()
    {
        StopConsensus stop = Stop(minutes: null);
        clock.Advance(TimeSpan.FromDays(1000));
        Assert.False(Decide(stop).Stops);
    }

    [Fact]
    public void StopFile_AfterAStep_StopsAndIsRemovedInTheEnd()
    {
        StopConsensus stop = Stop(minutes: 1);
        Assert.False(Decide(stop).Stops);
        // Whoever asks comes before the clock.
        clock.Advance(TimeSpan.FromMinutes(1));
        string file = folder.Write("run/STOP", "");
        StepDecision decision = Decide(stop);
        Assert.Equal(StopReason.StopFile, decision.Reason);
        Assert.Equal($"there is a file {file}", stop.Explain(decision));
        Assert.True(File.Exists(file));
        stop.Finish();
        Assert.False(File.Exists(file));
    }

    [Fact]
    public void Finish_AfterAnotherReason_LeavesAStopFileToTheNextRun()
    {
        StopConsensus stop = Stop(minutes: 1);
        clock.Advance(TimeSpan.FromMinutes(1));
        Assert.Equal(StopReason.TimeLimit, Decide(stop).Reason);
        string file = folder.Write("run/STOP", "");
        stop.Finish();
        Assert.True(File.Exists(file));
    }

    private RunDirectory Directory => new(folder["run"]);

    private StopConsensus Stop(double? minutes) => new(runtime, Directory, new TimeLimit(minutes, ProcessStart, clock));

    private static StepDecision Decide(StopConsensus stop) => stop.Decide(1, new StepVote(stop.OwnReason()));

    private sealed class ChangedTimeOfDay(TimeProvider clock) : TimeProvider
    {
        public TimeSpan Offset { get; set; }

        public override long TimestampFrequency => clock.TimestampFrequency;

        public override DateTimeOffset GetUtcNow() => clock.GetUtcNow() + Offset;

        public override long GetTimestamp() => clock.GetTimestamp();
    }
}
