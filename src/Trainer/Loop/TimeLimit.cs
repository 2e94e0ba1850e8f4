namespace LongNet.Trainer.Loop;

/// <summary>How long a program may run, from the start of its process.</summary>
internal sealed class TimeLimit
{
    private readonly TimeSpan? limit;
    private readonly TimeProvider clock;
    private readonly TimeSpan alreadyOver;
    private readonly long since;

    /// <param name="minutes">From the start of the process; null: no limit.</param>
    /// <param name="processStart">When the process started.</param>
    public TimeLimit(double? minutes, DateTimeOffset processStart, TimeProvider clock)
    {
        limit = minutes is { } value ? TimeSpan.FromMinutes(value) : null;
        this.clock = clock;
        // From here on timestamps count: the system's time of day may be set meanwhile.
        alreadyOver = clock.GetUtcNow() - processStart;
        since = clock.GetTimestamp();
    }

    /// <summary>The limit in minutes; 0 where there is none.</summary>
    public double Minutes => limit?.TotalMinutes ?? 0;

    public bool IsOver => alreadyOver + clock.GetElapsedTime(since) >= limit;
}
