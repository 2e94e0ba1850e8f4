using LongNet.Core.Numerics;

namespace LongNet.Trainer.Data;

/// <summary>
/// Which training window the n-th sequence of a run is: every epoch a permutation of all windows, a function only of
/// (seed, epoch, index). One cursor counts the sequences that the job has consumed over all ranks.
/// </summary>
internal sealed class SampleOrder
{
    private const int Rounds = 4;
    private readonly long windows;
    private readonly RandomStream stream;
    private readonly int halfBits;

    /// <param name="windows">Training windows.</param>
    /// <param name="seed">The run's seed.</param>
    public SampleOrder(long windows, long seed)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(windows, 1);
        this.windows = windows;
        stream = new RandomStream(0).Derive(seed).Derive("samples");
        while (1L << (2 * halfBits) < windows)
            halfBits++;
    }

    /// <summary>The window of the cursor-th sequence.</summary>
    public long WindowAt(long cursor)
    {
        RandomStream epoch = stream.Derive(cursor / windows);
        long index = cursor % windows;

        // A Feistel network permutes the next power of four; following it until an index is in range permutes the
        // windows (cycle walking).
        do index = Permute(epoch, index);
        while (index >= windows);
        return index;
    }

    private long Permute(RandomStream epoch, long index)
    {
        long mask = (1L << halfBits) - 1;
        long left = index >> halfBits,
            right = index & mask;
        for (int round = 0; round < Rounds; round++)
            (left, right) = (right, left ^ ((long)epoch.Derive(round).Bits(right) & mask));
        return (left << halfBits) | right;
    }
}
