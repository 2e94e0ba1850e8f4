using LongNet.Core.Model;
using LongNet.Trainer.Configuration;

namespace LongNet.Trainer.Platform;

/// <summary>
/// Decides after which steps the process gives the memory that it has freed back to the system. Kept, it need not be
/// paged in anew; but pieces of it lie between what is in use and fit no other tensor, and more of them from step to
/// step, for as long as a run lasts.
/// </summary>
/// <param name="allocator">Whether freed memory is kept at all.</param>
/// <param name="recompute">Whoever computes twice to save memory gives back after each step.</param>
internal sealed class MallocTrimPolicy(AllocatorSetting allocator, Recompute recompute)
{
    /// <summary>
    /// How much the process may grow by before it gives back, where nothing is recomputed, as a share of what a step
    /// takes of fresh memory. That much is grown by in twenty to forty steps, and paging it in anew takes a third of a
    /// step's time or less.
    /// </summary>
    public const double MostGrowth = 1;

    /// <summary>Growth, in bytes, that is not worth the page faults.</summary>
    public const long LeastGrowth = 64L << 20;

    // What was allocated before and after the first step on fresh memory.
    private long? before,
        after;

    /// <summary>Tells what is allocated before a step.</summary>
    /// <param name="allocated">Bytes (<see cref="ResidentMemory.Allocated"/>); null where the system does not
    /// tell.</param>
    public void BeforeStep(long? allocated) => before ??= allocated;

    /// <summary>Decides after a step.</summary>
    /// <param name="allocated">Bytes (<see cref="ResidentMemory.Allocated"/>); null where the system does not
    /// tell.</param>
    /// <returns>Whether freed memory is to be given back now.</returns>
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
        // What a step takes is measured anew, as it may have changed.
        before = after = null;
        return true;
    }
}
