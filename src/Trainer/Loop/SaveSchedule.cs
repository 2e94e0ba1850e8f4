using LongNet.Trainer.Configuration;

namespace LongNet.Trainer.Loop;

/// <summary>When checkpoints are due before the last step: every so many steps, and every so many minutes.</summary>
/// <param name="config">How often.</param>
/// <param name="clock">Read for the minutes, which count from here and from each save.</param>
internal sealed class SaveSchedule(CheckpointConfig config, TimeProvider clock)
{
    private long lastSave = clock.GetTimestamp();

    /// <summary>Whether one is due by the clock. Clocks differ between ranks, so rank 0's decides.</summary>
    public bool IsDueByTime =>
        config.EveryMinutes > 0 && clock.GetElapsedTime(lastSave).TotalMinutes >= config.EveryMinutes;

    /// <summary>Whether one is due after a step; the same on all ranks.</summary>
    public bool IsDueAfter(long step) => config.EverySteps > 0 && step % config.EverySteps == 0;

    /// <summary>Counts the minutes from now, as a save has begun.</summary>
    public void Restart() => lastSave = clock.GetTimestamp();
}
