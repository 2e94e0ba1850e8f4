using LongNet.Distributed.Launch;
using LongNet.Distributed.Lifetime;
using LongNet.TestKit;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Runs;
using Microsoft.Extensions.Time.Testing;

namespace LongNet.Trainer.Tests.Loop;

/// <summary>On one rank, without a launcher; several ranks are the scenario step-consensus.</summary>
public sealed class StepConsensusTests : IDisposable
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
        StepConsensus consensus = Consensus(minutes: 30);
        clock.Advance(TimeSpan.FromMinutes(9.99));
        Assert.False(Decide(consensus).Stops);
        clock.Advance(TimeSpan.FromMinutes(0.01));
        StepDecision decision = Decide(consensus);
        Assert.Equal((StopReason.TimeLimit, 0), (decision.Reason, decision.Rank));
        Assert.Equal("30 minutes (training.time_limit_minutes) are over", consensus.Explain(decision));
    }

    [Fact]
    public void TimeLimit_OverBeforeTheFirstStep_StopsAfterIt()
    {
        clock.Advance(TimeSpan.FromHours(1));
        Assert.Equal(StopReason.TimeLimit, Decide(Consensus(minutes: 0.001)).Reason);
    }

    [Fact]
    public void TimeLimit_WhereTheTimeOfDayIsSetBack_CountsAllTheSame()
    {
        var changed = new ChangedTimeOfDay(clock);
        var consensus = new StepConsensus(runtime, Directory, new TimeLimit(10, ProcessStart, changed));
        changed.Offset = -TimeSpan.FromDays(1);
        clock.Advance(TimeSpan.FromMinutes(10));
        Assert.Equal(StopReason.TimeLimit, Decide(consensus).Reason);
    }

    [Fact]
    public void TimeLimit_None_NeverStops()
    {
        StepConsensus consensus = Consensus(minutes: null);
        clock.Advance(TimeSpan.FromDays(1000));
        Assert.False(Decide(consensus).Stops);
    }

    [Fact]
    public void StopFile_AfterAStep_StopsAndIsRemovedInTheEnd()
    {
        StepConsensus consensus = Consensus(minutes: 1);
        Assert.False(Decide(consensus).Stops);
        // Whoever asks comes before the clock.
        clock.Advance(TimeSpan.FromMinutes(1));
        string file = folder.Write("run/STOP", "");
        StepDecision decision = Decide(consensus);
        Assert.Equal(StopReason.StopFile, decision.Reason);
        Assert.Equal($"there is a file {file}", consensus.Explain(decision));
        Assert.True(File.Exists(file));
        consensus.CleanUp();
        Assert.False(File.Exists(file));
    }

    [Fact]
    public void CleanUp_AfterAnotherReason_LeavesAStopFileToTheNextRun()
    {
        StepConsensus consensus = Consensus(minutes: 1);
        clock.Advance(TimeSpan.FromMinutes(1));
        Assert.Equal(StopReason.TimeLimit, Decide(consensus).Reason);
        string file = folder.Write("run/STOP", "");
        consensus.CleanUp();
        Assert.True(File.Exists(file));
    }

    private RunDirectory Directory => new(folder["run"]);

    private StepConsensus Consensus(double? minutes) =>
        new(runtime, Directory, new TimeLimit(minutes, ProcessStart, clock));

    private static StepDecision Decide(StepConsensus consensus) =>
        consensus.Decide(1, new StepVote(consensus.OwnReason()));

    private sealed class ChangedTimeOfDay(TimeProvider clock) : TimeProvider
    {
        public TimeSpan Offset { get; set; }

        public override long TimestampFrequency => clock.TimestampFrequency;

        public override DateTimeOffset GetUtcNow() => clock.GetUtcNow() + Offset;

        public override long GetTimestamp() => clock.GetTimestamp();
    }
}
