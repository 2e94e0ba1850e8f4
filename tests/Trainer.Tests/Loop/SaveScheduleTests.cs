using LongNet.Trainer.Configuration;
using LongNet.Trainer.Loop;
using Microsoft.Extensions.Time.Testing;

namespace LongNet.Trainer.Tests.Loop;

public class SaveScheduleTests
{
    private readonly FakeTimeProvider clock = new();

    [Fact]
    public void IsDueByTime_CountsFromTheLastSave()
    {
        var schedule = new SaveSchedule(new CheckpointConfig { EveryMinutes = 10 }, clock);
        clock.Advance(TimeSpan.FromMinutes(9.9));
        Assert.False(schedule.IsDueByTime);
        clock.Advance(TimeSpan.FromMinutes(0.1));
        Assert.True(schedule.IsDueByTime);
        schedule.Restart();
        Assert.False(schedule.IsDueByTime);
        clock.Advance(TimeSpan.FromMinutes(10));
        Assert.True(schedule.IsDueByTime);
        Assert.False(schedule.IsDueAfter(10));
    }

    [Fact]
    public void IsDueAfter_IsEverySoManySteps()
    {
        var schedule = new SaveSchedule(new CheckpointConfig { EverySteps = 3 }, clock);
        Assert.Equal([3, 6, 9], Enumerable.Range(1, 10).Where(step => schedule.IsDueAfter(step)));
        clock.Advance(TimeSpan.FromDays(1));
        Assert.False(schedule.IsDueByTime);
    }
}
