namespace LongNet.Trainer.Checkpoints;

/// <summary>
/// Which checkpoints stay when a newer one is complete: checkpoint.keep_last and checkpoint.keep_every.
/// </summary>
/// <param name="KeepLast">So many of the newest; 0: all.</param>
/// <param name="KeepEvery">Those whose step is a multiple stay for ever; 0: none for that.</param>
internal sealed record CheckpointRetention(long KeepLast, long KeepEvery)
{
    public static CheckpointRetention All { get; } = new(0, 0);

    /// <summary>Steps of the checkpoints that may be removed.</summary>
    /// <param name="steps">Checkpoints that there are, in ascending order.</param>
    /// <param name="best">The one with the lowest validation loss, which stays; null where none is known.</param>
    public IEnumerable<long> Expired(IReadOnlyList<long> steps, long? best)
    {
        return KeepLast == 0
            ? []
            : steps
                .SkipLast((int)Math.Min(KeepLast, int.MaxValue))
                .Where(step => step != best && (KeepEvery == 0 || step % KeepEvery != 0));
    }
}
