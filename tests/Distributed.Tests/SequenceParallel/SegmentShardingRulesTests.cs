using LongNet.Core;
using LongNet.Core.Attention;
using LongNet.Distributed.SequenceParallel;

namespace LongNet.Distributed.Tests.SequenceParallel;

public class SegmentShardingRulesTests
{
    [Theory]
    [InlineData(64, 64, 4, true)]
    [InlineData(32, 64, 4, true)]
    [InlineData(128, 64, 4, true)]
    [InlineData(192, 64, 4, true)]
    [InlineData(48, 64, 4, false)]
    [InlineData(96, 64, 4, false)]
    [InlineData(48, 64, 1, true)]
    public void Fits_SegmentsWholeOnRanksOrOfWholeRanks(long segmentLength, long tokensPerRank, int ranks, bool fits) =>
        Assert.Equal(fits, SegmentShardingRules.Fits(segmentLength, tokensPerRank, ranks));

    [Fact]
    public void Validate_SegmentThatStraddlesRanks_NamesTheNearestThatWorks()
    {
        var schedule = new SegmentSchedule(new Branch(64, 1), new Branch(100, 2));
        var error = Assert.Throws<UserException>(() => SegmentShardingRules.Validate(schedule, 256, 4));
        Assert.Equal(
            "Branch (w = 100, r = 2) does not fit 4 ranks with 64 rows each: a segment must divide a rank's "
                + "rows or be a multiple of them. "
                + "The nearest segment length that works is 128; with the schedule as it is, 1 rank can share "
                + "the sequence.",
            error.Message
        );
    }

    [Fact]
    public void Validate_SeveralBranches_NamesRanksThatSuitAll()
    {
        var schedule = new SegmentSchedule(new Branch(200, 1), new Branch(120, 1));
        string message = Assert.Throws<UserException>(() => SegmentShardingRules.Validate(schedule, 600, 4)).Message;
        Assert.EndsWith(
            "with the schedule as it is, 1 rank can share the sequence.",
            message,
            StringComparison.Ordinal
        );
    }

    [Fact]
    public void Validate_SequenceThatRanksDoNotDivide_NamesALengthThatWorks()
    {
        var error = Assert.Throws<UserException>(() =>
            SegmentShardingRules.Validate(new SegmentSchedule(new Branch(64, 1)), 1000, 3)
        );
        Assert.Equal(
            "A sequence of 1000 rows cannot be shared evenly by 3 ranks: choose a sequence length that is "
                + "a multiple of 3, such as 1002.",
            error.Message
        );
    }

    [Fact]
    public void Validate_SegmentLongerThanTheSequence_IsTheSequence() =>
        SegmentShardingRules.Validate(new SegmentSchedule(new Branch(1000, 2)), 256, 4);
}
