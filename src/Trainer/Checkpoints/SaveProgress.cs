namespace LongNet.Trainer.Checkpoints;

/// <summary>How far a rank's part of a checkpoint is. The numbers travel between ranks.</summary>
internal enum SaveProgress
{
    /// <summary>
    /// This rank is not working on a checkpoint: none is being saved, this rank has no part in it, or its part is
    /// written and rank 0 commits.
    /// </summary>
    Idle = 0,

    /// <summary>This rank is writing its part, or is committing the checkpoint.</summary>
    Busy = 1,

    /// <summary>This rank's part is on the disk; the checkpoint is complete only when all parts are.</summary>
    Written = 2,

    /// <summary>The checkpoint is complete.</summary>
    Committed = 3,
    Failed = 4,
}

internal static class SaveProgresses
{
    // A rank that is still writing holds back every decision; one failure then decides over all that succeeded.
    private static readonly SaveProgress[] Precedence =
    [
        SaveProgress.Busy,
        SaveProgress.Failed,
        SaveProgress.Written,
        SaveProgress.Committed,
        SaveProgress.Idle,
    ];

    /// <summary>How far the whole save is, from how far each rank says that it is.</summary>
    public static SaveProgress OfAllRanks(this IReadOnlyCollection<SaveProgress> ranks) =>
        Precedence.First(ranks.Contains);
}
