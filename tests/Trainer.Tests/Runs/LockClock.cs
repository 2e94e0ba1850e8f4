using LongNet.Trainer.Runs;
using Microsoft.Extensions.Time.Testing;

namespace LongNet.Trainer.Tests.Runs;

/// <summary>
/// A clock for a thread that acquires locks: where it waits, the time passes at once. The threads that beat for its
/// locks wait until a test lets a beat pass.
/// </summary>
internal sealed class LockClock : FakeTimeProvider
{
    // A thread comes to its next wait as soon as it gets a processor.
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(2);

    private int sleepers;

    /// <summary>Called whenever the thread waits, before the time passes.</summary>
    public Action? WhileWaiting { get; set; }

    /// <summary>How long the thread has waited in all.</summary>
    public TimeSpan Waited { get; private set; }

    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
    {
        if (Thread.CurrentThread.Name == RunLock.HeartName)
        {
            ITimer beat = base.CreateTimer(
                passed =>
                {
                    Interlocked.Decrement(ref sleepers);
                    callback(passed);
                },
                state,
                dueTime,
                period
            );
            Interlocked.Increment(ref sleepers);
            return beat;
        }

        ITimer timer = base.CreateTimer(callback, state, dueTime, period);
        WhileWaiting?.Invoke();
        Waited += dueTime;
        Advance(dueTime);
        return timer;
    }

    /// <summary>Lets the time of a beat pass, and returns when the only holder has beaten.</summary>
    public void PassBeat(TimeSpan beat)
    {
        AwaitSleeper();
        Advance(beat);
        AwaitSleeper();
    }

    /// <summary>Returns when the thread of the only holder waits for its next beat.</summary>
    public void AwaitSleeper() => Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref sleepers) == 1, Limit));
}
