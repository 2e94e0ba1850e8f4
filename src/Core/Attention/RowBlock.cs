using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// The rows and heads that one kernel call works on: a strided view of a [batch, length, heads, headDim] tensor in which
/// segments (or sequences) are folded into the batch. Selecting and scattering are views, so neither costs a copy
/// (semantics: "No copies").
/// </summary>
/// <param name="FirstRow">First row, counted over batch × length.</param>
/// <param name="Rows">Kept rows per segment.</param>
/// <param name="RowStride">Distance between kept rows: the dilation.</param>
/// <param name="Segments">How many segments or sequences are folded together.</param>
/// <param name="SegmentStride">Distance between their first rows.</param>
/// <param name="Group">The heads that keep these rows.</param>
internal readonly record struct RowBlock(
    long FirstRow, long Rows, long RowStride, long Segments, long SegmentStride, HeadGroup Group)
{
    /// <summary>The block of a [batch, length, heads, headDim] tensor, as [segments, heads, rows, headDim].</summary>
    /// <param name="tensor">Contiguous. The view shares its storage.</param>
    public Tensor View(Tensor tensor)
    {
        // Not the tensor's own strides: along an axis of one element they may be anything.
        long head = tensor.shape[3], row = tensor.shape[2] * head;
        return tensor.as_strided(
            [Segments, Group.Heads, Rows, tensor.shape[3]],
            [SegmentStride * row, Group.HeadStride * head, RowStride * row, 1],
            tensor.storage_offset() + FirstRow * row + Group.FirstHead * head);
    }

    /// <summary>The block of a dense [batch, length, heads] tensor, as [segments, heads, rows].</summary>
    public Tensor ViewStatistic(Tensor tensor)
    {
        long row = tensor.shape[2];
        return tensor.as_strided(
            [Segments, Group.Heads, Rows],
            [SegmentStride * row, Group.HeadStride, RowStride * row],
            tensor.storage_offset() + FirstRow * row + Group.FirstHead);
    }

    /// <summary>All blocks of a branch whose segments are whole in a tensor of the given size.</summary>
    public static IEnumerable<RowBlock> OfLocalBranch(
        Branch branch, IReadOnlyList<HeadGroup> groups, long batch, long length)
    {
        long segments = length / branch.SegmentLength;
        long tail = segments * branch.SegmentLength;
        foreach (HeadGroup group in groups)
        {
            long rows = KeptRows(branch.SegmentLength, group.Offset, branch.Dilation);
            if (rows > 0 && segments > 0)
            {
                // Segments of all sequences are equally spaced only if no sequence ends in a short one.
                if (batch == 1 || tail == length)
                {
                    yield return new RowBlock(
                        group.Offset, rows, branch.Dilation, batch * segments, branch.SegmentLength, group);
                }
                else if (batch <= segments)
                {
                    for (long sequence = 0; sequence < batch; sequence++)
                    {
                        yield return new RowBlock(
                            sequence * length + group.Offset, rows, branch.Dilation, segments, branch.SegmentLength, group);
                    }
                }
                else
                {
                    for (long segment = 0; segment < segments; segment++)
                    {
                        yield return new RowBlock(
                            segment * branch.SegmentLength + group.Offset, rows, branch.Dilation, batch, length, group);
                    }
                }
            }

            long tailRows = KeptRows(length - tail, group.Offset, branch.Dilation);
            if (tailRows > 0)
                yield return new RowBlock(tail + group.Offset, tailRows, branch.Dilation, batch, length, group);
        }
    }

    /// <summary>How many of a segment's rows an offset and dilation keep.</summary>
    public static long KeptRows(long segmentRows, long offset, long dilation) =>
        segmentRows <= offset ? 0 : (segmentRows - offset + dilation - 1) / dilation;
}
