using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Runs;

/// <summary>What a run's lock depends on beside its file.</summary>
internal sealed record RunLockOptions
{
    /// <summary>The program's: the system's clock, and locks as the file system has them.</summary>
    public static RunLockOptions Default { get; } = new();

    public TimeProvider Time { get; init; } = TimeProvider.System;

    /// <summary>Time between beats.</summary>
    public TimeSpan Beat { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>Locks a file; returns the system's error, or 0.</summary>
    public Func<LockFile, int> Lock { get; init; } = file => file.Lock();

    /// <summary>Blocks the calling thread for a time, or until an event is set.</summary>
    /// <returns>Whether the event was set.</returns>
    public bool Wait(TimeSpan duration, ManualResetEventSlim until)
    {
        // A timer needs a thread of the pool, and the training step may keep all of them busy.
        if (Time == TimeProvider.System)
            return until.Wait(duration);
        using var elapsed = new CancellationTokenSource(duration, Time);
        return WaitHandle.WaitAny([until.WaitHandle, elapsed.Token.WaitHandle]) == 0;
    }
}
