using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>Rows at the same place of consecutive sequences of a [batch, length, …] tensor.</summary>
/// <param name="FirstSequence">First sequence.</param>
/// <param name="Sequences">Number of sequences.</param>
/// <param name="Length">Rows that the tensor holds of each sequence.</param>
/// <param name="FirstRow">First row of each.</param>
/// <param name="Rows">Rows of each.</param>
internal readonly record struct RowRange(long FirstSequence, long Sequences, long Length, long FirstRow, long Rows)
{
    /// <summary>All rows of all sequences.</summary>
    public static RowRange Whole(long batch, long length) => new(0, batch, length, 0, length);
}

/// <summary>
/// The rows and heads that one kernel call works on: a strided view of a [batch, length, heads, headDim] tensor in
/// which segments (or sequences) are folded into the batch. Rows are read and written through the view, so selecting
/// them costs no copy.
/// </summary>
/// <param name="FirstRow">First row of the first head, counted over batch × length.</param>
/// <param name="Rows">Kept rows per segment.</param>
/// <param name="RowStride">Distance between kept rows: the dilation.</param>
/// <param name="Segments">How many segments or sequences are folded together.</param>
/// <param name="SegmentStride">Distance between their first rows.</param>
/// <param name="Group">The heads that keep these rows.</param>
internal readonly record struct RowBlock(
    long FirstRow,
    long Rows,
    long RowStride,
    long Segments,
    long SegmentStride,
    HeadGroup Group
)
{
    /// <summary>The block of a [batch, length, heads, headDim] tensor, as [segments, heads, rows, headDim].</summary>
    /// <param name="tensor">Contiguous. The view shares its storage.</param>
    public Tensor View(Tensor tensor)
    {
        // Not the tensor's own strides: along an axis of one element they may be anything.
        long head = tensor.shape[3],
            row = tensor.shape[2] * head;
        return tensor.as_strided(
            [Segments, Group.Heads, Rows, tensor.shape[3]],
            [SegmentStride * row, Group.OffsetStride * row + Group.HeadStride * head, RowStride * row, 1],
            tensor.storage_offset() + FirstRow * row + Group.FirstHead * head
        );
    }

    /// <summary>The block of a dense [batch, length, heads] log-sum-exp, as [segments, heads, rows].</summary>
    public Tensor ViewLogSumExp(Tensor tensor)
    {
        long row = tensor.shape[2];
        return tensor.as_strided(
            [Segments, Group.Heads, Rows],
            [SegmentStride * row, Group.OffsetStride * row + Group.HeadStride, RowStride * row],
            tensor.storage_offset() + FirstRow * row + Group.FirstHead
        );
    }

    /// <summary>
    /// All blocks of a branch over rows that begin where a segment does. A last segment may be short.
    /// </summary>
    /// <param name="branch">The branch.</param>
    /// <param name="offsets">How its offsets are dealt out among the heads.</param>
    /// <param name="heads">Number of heads.</param>
    /// <param name="range">The rows.</param>
    public static IEnumerable<RowBlock> OfBranch(Branch branch, HeadOffsets offsets, long heads, RowRange range)
    {
        long w = branch.SegmentLength,
            r = branch.Dilation;
        long segments = range.Rows / w,
            tail = range.Rows % w;
        long start = range.FirstSequence * range.Length + range.FirstRow;
        if (segments > 0)
        {
            foreach (HeadGroup group in offsets.Groups(heads, r, w))
            {
                long kept = KeptRows(w, group.Offset, r),
                    first = start + group.Offset;
                if (kept == 0)
                    continue;

                // One view can hold the segments of all sequences if they are equally spaced: if every sequence is made
                // up of whole segments, and nothing lies between two sequences.
                if (range.Sequences == 1 || (range.Rows == range.Length && tail == 0))
                {
                    yield return new RowBlock(first, kept, r, range.Sequences * segments, w, group);
                }
                else if (range.Sequences <= segments)
                {
                    for (long sequence = 0; sequence < range.Sequences; sequence++)
                        yield return new RowBlock(first + sequence * range.Length, kept, r, segments, w, group);
                }
                else
                {
                    for (long segment = 0; segment < segments; segment++)
                        yield return new RowBlock(first + segment * w, kept, r, range.Sequences, range.Length, group);
                }
            }
        }

        if (tail == 0)
            yield break;
        foreach (HeadGroup group in offsets.Groups(heads, r, tail))
        {
            long kept = KeptRows(tail, group.Offset, r);
            if (kept > 0)
                yield return new RowBlock(
                    start + segments * w + group.Offset,
                    kept,
                    r,
                    range.Sequences,
                    range.Length,
                    group
                );
        }
    }

    /// <summary>
    /// Cuts the block by segments, and one segment that is still too large by heads, so that what a kernel returns for
    /// a part stays in the processor's cache until it is used.
    /// </summary>
    /// <param name="headDim">Elements per row and head.</param>
    /// <param name="elements">Most elements of a part, unless <paramref name="leastHeads"/> have more.</param>
    /// <param name="leastHeads">Heads that a part should have at least. A head counts once in each of the part's
    /// segments.</param>
    public IEnumerable<RowBlock> Split(long headDim, long elements, long leastHeads)
    {
        long headsPerPart = Math.Max(leastHeads, elements / (Rows * headDim));
        long segmentsPerPart = Math.Max(1, headsPerPart / Group.Heads);
        long headsPerSegment = segmentsPerPart > 1 ? Group.Heads : Math.Clamp(headsPerPart, 1, Group.Heads);

        // Parts of equal size: a small last one would leave threads without work.
        long segmentParts = (Segments + segmentsPerPart - 1) / segmentsPerPart,
            headParts = (Group.Heads + headsPerSegment - 1) / headsPerSegment;
        for (long s = 0; s < segmentParts; s++)
        {
            long firstSegment = Segments * s / segmentParts,
                endSegment = Segments * (s + 1) / segmentParts;
            for (long h = 0; h < headParts; h++)
            {
                long firstHead = Group.Heads * h / headParts,
                    endHead = Group.Heads * (h + 1) / headParts;
                yield return this with
                {
                    FirstRow = FirstRow + firstSegment * SegmentStride + firstHead * Group.OffsetStride,
                    Segments = endSegment - firstSegment,
                    Group = Group.Slice(firstHead, endHead - firstHead),
                };
            }
        }
    }

    /// <summary>The heads of the block that lie in a range.</summary>
    /// <param name="firstHead">First head of the range.</param>
    /// <param name="heads">Its heads.</param>
    /// <returns>The block, possibly of no head, and its place among the heads of this one.</returns>
    public (RowBlock Block, long First, long Count) OfHeads(long firstHead, long heads)
    {
        long first = HeadsBefore(firstHead),
            count = HeadsBefore(firstHead + heads) - first;
        return (
            this with
            {
                FirstRow = FirstRow + first * Group.OffsetStride,
                Group = Group.Slice(first, count),
            },
            first,
            count
        );
    }

    private long HeadsBefore(long head) =>
        Math.Clamp((head - Group.FirstHead + Group.HeadStride - 1) / Group.HeadStride, 0, Group.Heads);

    /// <summary>
    /// The first kept row of rows that begin inside a segment, counted from the first of them: the next row whose
    /// distance from the segment's start is the offset plus a multiple of the dilation.
    /// </summary>
    /// <param name="rowsBefore">Rows of the segment that lie before the first.</param>
    /// <param name="offset">The head's offset, 0 … dilation − 1.</param>
    /// <param name="dilation">Distance between kept rows.</param>
    public static long FirstKeptRow(long rowsBefore, long offset, long dilation)
    {
        long beyondOffset = rowsBefore - offset;
        return beyondOffset <= 0 ? -beyondOffset : (dilation - beyondOffset % dilation) % dilation;
    }

    /// <summary>How many of a segment's rows an offset and dilation keep.</summary>
    public static long KeptRows(long segmentRows, long offset, long dilation) =>
        segmentRows <= offset ? 0 : (segmentRows - offset + dilation - 1) / dilation;
}
