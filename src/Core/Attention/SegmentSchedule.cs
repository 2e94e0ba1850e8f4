using System.Collections;
using LongNet.Core.Numerics;

namespace LongNet.Core.Attention;

/// <summary>
/// The branches of a dilated attention, in order. The paper's is w = 2048 … 32768 with r = 1, 2, 4, 6, 12
/// (section 4.1 of arXiv:2307.02486).
/// </summary>
public sealed class SegmentSchedule : IReadOnlyList<Branch>, IEquatable<SegmentSchedule>
{
    private readonly Branch[] branches;

    /// <exception cref="UserException">No branch, or a segment length or dilation below 1.</exception>
    public SegmentSchedule(IEnumerable<Branch> branches)
    {
        ArgumentNullException.ThrowIfNull(branches);
        this.branches = [.. branches];
        if (this.branches.Length == 0)
            throw new UserException(
                "A segment schedule needs at least one branch: give one segment length and one dilation rate."
            );
        for (int b = 0; b < this.branches.Length; b++)
        {
            if (this.branches[b].SegmentLength < 1 || this.branches[b].Dilation < 1)
            {
                throw new UserException(
                    $"Branch {b} of the segment schedule is {this.branches[b]}: segment length and dilation "
                        + "rate must be at least 1."
                );
            }
        }
    }

    public SegmentSchedule(params Branch[] branches)
        : this((IEnumerable<Branch>)branches) { }

    /// <summary>Number of branches.</summary>
    public int Count => branches.Length;

    public Branch this[int index] => branches[index];

    /// <summary>
    /// The length of aligned blocks that no segment of any branch straddles: the least common multiple of the segment
    /// lengths, or <paramref name="sequenceLength"/> where that is shorter.
    /// </summary>
    public long CommonBlock(long sequenceLength)
    {
        long common = 1;
        foreach (Branch branch in branches)
        {
            long step = branch.SegmentLength / Integers.GreatestCommonDivisor(common, branch.SegmentLength);
            if (step > sequenceLength / common)
                return sequenceLength;
            common *= step;
        }

        return Math.Min(common, sequenceLength);
    }

    public IEnumerator<Branch> GetEnumerator() => ((IEnumerable<Branch>)branches).GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => branches.GetEnumerator();

    public bool Equals(SegmentSchedule? other) => other is not null && branches.AsSpan().SequenceEqual(other.branches);

    public override bool Equals(object? obj) => Equals(obj as SegmentSchedule);

    public override int GetHashCode()
    {
        var hash = new HashCode();
        foreach (Branch branch in branches)
            hash.Add(branch);
        return hash.ToHashCode();
    }

    public override string ToString() => string.Join(", ", branches);
}
