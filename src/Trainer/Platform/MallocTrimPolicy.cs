using LongNet.Core.Devices;
using LongNet.Core.Model;
using LongNet.Trainer.Configuration;

namespace LongNet.Trainer.Platform;

/// <summary>
/// Decides after which steps the process returns the memory that it has freed to the system. Memory that is kept need
/// not be paged in again; but its free pieces lie between what is in use and fit no other tensor, and there are more of
/// them from step to step, for as long as a run lasts.
/// </summary>
/// <param name="allocator">Whether freed memory is kept at all.</param>
/// <param name="recompute">A run that recomputes to save memory returns memory after each step.</param>
internal sealed class MallocTrimPolicy(AllocatorSetting allocator, Recompute recompute)
{
    /// <summary>
    /// How much the process may grow by before it returns memory, where nothing is recomputed, as a share of the fresh
    /// memory that a step takes. Twenty to forty steps grow by that much, and paging it in again takes a third of a
    /// step's time or less.
    /// </summary>
    public const double MostGrowth = 1;

    /// <summary>Growth, in bytes, that is not worth the page faults.</summary>
    public const long LeastGrowth = 64L << 20;

    // What was allocated before and after the first step since memory was last returned.
    private long? before,
        after;

    /// <summary>Notes what is allocated before a step.</summary>
    /// <param name="allocated">Bytes (<see cref="ComputeDevice.AllocatedBytes"/>); null where the system does not
    /// report it.</param>
    public void BeforeStep(long? allocated) => before ??= allocated;

    /// <summary>Decides after a step.</summary>
    /// <param name="allocated">Bytes (<see cref="ComputeDevice.AllocatedBytes"/>); null where the system does not
    /// report it.</param>
    /// <returns>Whether freed memory should be returned now.</returns>
    public bool ShouldTrim(long? allocated)
    {
        if (allocator != AllocatorSetting.Tuned)
            return false;
        if (recompute != Recompute.None)
            return true;
        if (allocated is not { } now || before is not { } rest)
            return false;
        after ??= now;
        if (now - after.Value <= Math.Max(LeastGrowth, MostGrowth * (after.Value - rest)))
            return false;
        // What a step takes is measured again, as it may have changed.
        before = after = null;
        return true;
    }
}
