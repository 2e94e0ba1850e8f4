using LongNet.Trainer.Loop;

namespace LongNet.Trainer.Tests.Loop;

public class LearningRateScheduleTests
{
    private static readonly LearningRateSchedule Schedule = new(
        Peak: 1,
        Minimum: 0.1,
        WarmupSteps: 10,
        DecaySteps: 110
    );

    [Theory]
    [InlineData(1, 0.1)]
    [InlineData(5, 0.5)]
    [InlineData(10, 1)]
    // Half of the cosine's way lies half-way between peak and minimum, a quarter at (1 + cos 45°) / 2 of it.
    [InlineData(35, 0.1 + 0.9 * 0.85355339059327373)]
    [InlineData(60, 0.55)]
    [InlineData(110, 0.1)]
    [InlineData(1000, 0.1)]
    public void RateAt_WarmsUpDecaysAndStays(long step, double expected) =>
        Assert.Equal(expected, Schedule.RateAt(step), 1e-15);

    [Fact]
    public void RateAt_NoWarmup_StartsBelowThePeak() =>
        Assert.InRange((Schedule with { WarmupSteps = 0 }).RateAt(1), 0.999, 1);
}
