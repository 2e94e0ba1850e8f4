namespace LongNet.Core.Attention;

/// <summary>
/// Which rows of the whole sequence a tensor's length axis holds. Causal masks, rotary phases and labels follow from
/// these absolute positions.
/// </summary>
/// <param name="FirstRow">Absolute position of the first row held.</param>
/// <param name="Length">Rows held.</param>
/// <param name="TotalLength">Rows of the whole sequence.</param>
public readonly record struct SequenceShard(long FirstRow, long Length, long TotalLength)
{
    /// <summary>The shard that is the whole sequence.</summary>
    public static SequenceShard Whole(long length) => new(0, length, length);
}
