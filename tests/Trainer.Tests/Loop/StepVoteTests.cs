using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Loop;

namespace LongNet.Trainer.Tests.Loop;

public class StepVoteTests
{
    [Fact]
    public void Pack_EveryVote_IsUnpackedToTheSame()
    {
        StepVote[] votes =
        [
            .. from stop in Enum.GetValues<StopReason>()
            from saving in Enum.GetValues<SaveProgress>()
            from due in new[] { false, true }
            select new StepVote(stop, saving, due),
        ];
        Assert.Equal(votes, votes.Select(vote => StepVote.Unpack(vote.Pack())));
        Assert.Equal(votes.Length, votes.Select(vote => vote.Pack()).Distinct().Count());
    }

    [Fact]
    public void Pack_AVote_HasAFieldOfBitsForEachPart() =>
        Assert.Equal(0b1_010_0110, new StepVote(StopReason.TimeLimit, SaveProgress.Written, true).Pack());

    [Fact]
    public void Decision_WithoutReasons_ContinuesAndFollowsTheClockOfRank0()
    {
        var early = new StepVote(StopReason.None);
        StepVote late = early with { SaveIsDue = true };
        Assert.Equal(new StepDecision(StopReason.None, 0, false, SaveProgress.Idle), StepDecision.Of([early, late]));
        StepDecision decision = StepDecision.Of([late, early]);
        Assert.Equal(new StepDecision(StopReason.None, 0, true, SaveProgress.Idle), decision);
        Assert.False(decision.Stops);
    }

    [Fact]
    public void Decision_OfSeveralReasons_IsThatOfTheLowestRank()
    {
        StepDecision decision = StepDecision.Of([
            new(StopReason.None),
            new(StopReason.SIGINT),
            new(StopReason.SIGTERM),
            new(StopReason.None),
        ]);
        Assert.True(decision.Stops);
        Assert.Equal((StopReason.SIGINT, 1), (decision.Reason, decision.Rank));
    }

    // A rank that writes holds back every decision; then a failure counts, then parts to commit.
    [Theory]
    [InlineData(SaveProgress.Busy, SaveProgress.Failed, SaveProgress.Busy, SaveProgress.Written)]
    [InlineData(SaveProgress.Failed, SaveProgress.Written, SaveProgress.Failed, SaveProgress.Committed)]
    [InlineData(SaveProgress.Written, SaveProgress.Idle, SaveProgress.Written)]
    [InlineData(SaveProgress.Committed, SaveProgress.Committed, SaveProgress.Idle)]
    [InlineData(SaveProgress.Idle, SaveProgress.Idle, SaveProgress.Idle)]
    internal void Decision_OnASave_WaitsForAllRanks(SaveProgress expected, params SaveProgress[] ranks) =>
        Assert.Equal(
            expected,
            StepDecision.Of([.. ranks.Select(saving => new StepVote(StopReason.None, saving))]).Saving
        );
}
