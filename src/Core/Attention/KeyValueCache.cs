using LongNet.Core.Attention.Kernels;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// What decoding keeps of the rows that came before: of every branch the kept keys and values of the segment that the
/// next row lies in, and nothing of earlier segments, which no later row can see.
/// </summary>
/// <remarks>
/// <para>Rows may come one at a time, in chunks or all at once; each gets what the whole sequence would give it, to
/// rounding. A row costs one pass over the kept keys of its segments, at most Σ w/r, however long the sequence has
/// become.</para>
/// <para>A row that several branches keep is held by each, so that every branch's keys lie side by side.</para>
/// </remarks>
public sealed class KeyValueCache : IDisposable
{
    private readonly AttentionPattern pattern;
    private readonly long batch,
        heads,
        headDim;
    private readonly BranchCache[] branches;
    private bool disposed;

    /// <param name="pattern">What is computed; causal.</param>
    /// <param name="batch">Sequences.</param>
    /// <param name="heads">Heads.</param>
    /// <param name="headDim">Channels per head.</param>
    /// <param name="maxLength">Most rows that will come. Memory grows with the rows, not with this.</param>
    /// <exception cref="UserException">The attention is not causal, or a number is below 1.</exception>
    public KeyValueCache(AttentionPattern pattern, long batch, long heads, long headDim, long maxLength)
    {
        ArgumentNullException.ThrowIfNull(pattern);
        if (!pattern.Causal)
            throw new UserException(
                "Decoding row by row needs causal attention: a row that sees later ones cannot be computed "
                    + "before they are there."
            );
        if (batch < 1 || maxLength < 1)
            throw new UserException(
                $"A key/value cache is for at least one sequence of at least one row, not for {batch} of at "
                    + $"most {maxLength}."
            );
        this.pattern = pattern;
        this.batch = batch;
        this.heads = heads;
        this.headDim = headDim;
        MaxLength = maxLength;
        branches =
        [
            .. pattern.Schedule.Select(branch => new BranchCache(
                branch,
                pattern.HeadOffsets.Groups(heads, branch.Dilation),
                maxLength
            )),
        ];
    }

    /// <summary>Rows that have come.</summary>
    public long Length { get; private set; }

    /// <summary>Most rows that may come.</summary>
    public long MaxLength { get; }

    /// <summary>Keys held for one sequence, over all branches and heads.</summary>
    public long KeptKeys => branches.Sum(branch => branch.KeptKeys);

    /// <summary>Attends the next rows to themselves and to the rows before. Not differentiable.</summary>
    /// <param name="q">Queries of the next rows, [batch, rows, heads, headDim]; rotated already. Not disposed.</param>
    /// <param name="k">Keys, shaped like q.</param>
    /// <param name="v">Values, shaped like q.</param>
    /// <param name="bias">Added to the logits by distance; null for none.</param>
    /// <returns>Mixed heads, shaped like q. Owned by the caller.</returns>
    /// <exception cref="UserException">Another shape than the cache's, or more rows than it was made for.</exception>
    public Tensor Attend(Tensor q, Tensor k, Tensor v, RelativePositionBias? bias = null)
    {
        ArgumentNullException.ThrowIfNull(q);
        ArgumentNullException.ThrowIfNull(k);
        ArgumentNullException.ThrowIfNull(v);
        if (
            q.dim() != 4
            || q.shape[0] != batch
            || q.shape[2] != heads
            || q.shape[3] != headDim
            || !q.shape.SequenceEqual(k.shape)
            || !q.shape.SequenceEqual(v.shape)
        )
        {
            throw new UserException(
                $"This key/value cache takes q, k and v of shape [{batch}, rows, {heads}, {headDim}], but was "
                    + $"given [{string.Join(", ", q.shape)}], "
                    + $"[{string.Join(", ", k.shape)}] and [{string.Join(", ", v.shape)}]."
            );
        }

        CheckUse(pattern, q.shape[1]);
        bias?.CheckHeads(heads);
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        var pass = new Pass(
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            new LogSumExpMerge(q),
            new BlockAttention(bias?.Table, bias?.Buckets)
        );
        foreach (BranchCache branch in branches)
            branch.Attend(pass, Length, pattern.HeadOffsets);
        Length += q.shape[1];
        return pass.Merge.Output.to(q.dtype).MoveToOuterDisposeScope();
    }

    public void Dispose()
    {
        disposed = true;
        foreach (BranchCache branch in branches)
            branch.Dispose();
    }

    /// <summary>
    /// Refuses another attention, and more rows than the cache was made for, before anything is computed for them.
    /// </summary>
    internal void CheckUse(AttentionPattern use, long rows)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        if (use != pattern)
            throw new UserException(
                $"This key/value cache is for the branches {pattern.Schedule}, but the attention has "
                    + $"{use.Schedule} or other options: make a cache with its CreateCache."
            );
        if (rows > MaxLength - Length)
            throw new UserException(
                $"This key/value cache was made for {MaxLength} rows and holds {Length}: {rows} more do not "
                    + "fit. Make it longer."
            );
    }

    // The rows of one call: contiguous [batch, rows, heads, headDim], and what their results are merged into.
    private sealed record Pass(Tensor Q, Tensor K, Tensor V, LogSumExpMerge Merge, BlockAttention Attention)
    {
        public void AttendEarlier(RowBlock block, Tensor keys, Tensor values, long keyOffset) =>
            Merge.AttendAndMerge(Attention, block, Q, keys, values, causal: false, keyOffset);

        public void AttendOwn(RowBlock block) =>
            Merge.AttendAndMerge(Attention, block, Q, block.View(K), block.View(V), causal: true, keyOffset: 0);
    }

    // One branch: what it keeps of the segment that the next row lies in.
    private sealed class BranchCache(Branch branch, IReadOnlyList<HeadGroup> groups, long maxLength) : IDisposable
    {
        private readonly GrowingRows[] keys = [.. groups.Select(_ => new GrowingRows())],
            values = [.. groups.Select(_ => new GrowingRows())];

        public long KeptKeys => groups.Zip(keys, (group, rows) => group.Heads * rows.Count).Sum();

        public void Attend(Pass pass, long firstRow, HeadOffsets offsets)
        {
            long rows = pass.Q.shape[1],
                batch = pass.Q.shape[0],
                inSegment = firstRow % branch.SegmentLength;
            long begun = inSegment == 0 ? 0 : Math.Min(rows, branch.SegmentLength - inSegment);
            if (begun > 0)
            {
                foreach (var (group, block) in Blocks(0, begun, inSegment))
                    Continue(pass, block, keys[group], values[group], Capacity(block.Group));
                if (inSegment + begun == branch.SegmentLength)
                    Clear();
            }

            // What follows begins with a segment, as a whole sequence does.
            long others = rows - begun,
                tail = others % branch.SegmentLength;
            foreach (
                RowBlock block in RowBlock.OfBranch(
                    branch,
                    offsets,
                    pass.Q.shape[2],
                    new RowRange(0, batch, rows, begun, others)
                )
            )
                pass.AttendOwn(block);
            if (tail > 0)
            {
                foreach (var (group, block) in Blocks(rows - tail, tail, 0))
                {
                    keys[group].Append(block.View(pass.K), Capacity(block.Group));
                    values[group].Append(block.View(pass.V), Capacity(block.Group));
                }
            }

            // Kept rows among `count` rows of the call, before which lie `rowsBefore` rows of their segment.
            IEnumerable<(int Group, RowBlock Block)> Blocks(long first, long count, long rowsBefore)
            {
                for (int g = 0; g < groups.Count; g++)
                {
                    long firstKept = RowBlock.FirstKeptRow(rowsBefore, groups[g].Offset, branch.Dilation);
                    long kept = RowBlock.KeptRows(count, firstKept, branch.Dilation);
                    if (kept > 0)
                        yield return (
                            g,
                            new RowBlock(first + firstKept, kept, branch.Dilation, batch, rows, groups[g])
                        );
                }
            }
        }

        public void Dispose() => Clear();

        private static void Continue(Pass pass, RowBlock block, GrowingRows keys, GrowingRows values, long capacity)
        {
            long keyOffset = keys.Count;
            if (block.Rows > 1)
            {
                if (keyOffset > 0)
                    pass.AttendEarlier(block, keys.All, values.All, keyOffset);
                pass.AttendOwn(block);
            }

            keys.Append(block.View(pass.K), capacity);
            values.Append(block.View(pass.V), capacity);

            // A single row sees all kept rows, itself among them.
            if (block.Rows == 1)
                pass.AttendEarlier(block, keys.All, values.All, keyOffset);
        }

        private long Capacity(HeadGroup group) =>
            RowBlock.KeptRows(Math.Min(branch.SegmentLength, maxLength), group.Offset, branch.Dilation);

        private void Clear()
        {
            foreach (GrowingRows rows in keys.Concat(values))
                rows.Dispose();
        }
    }

    // [batch, heads, rows, headDim], with room for more rows.
    private sealed class GrowingRows : IDisposable
    {
        private const long FirstRoom = 64;

        private Tensor? buffer;

        public long Count { get; private set; }

        public Tensor All => buffer!.narrow(2, 0, Count);

        public void Append(Tensor rows, long capacity)
        {
            long count = Count + rows.shape[2];
            if (buffer is null || buffer.shape[2] < count)
            {
                long room = Math.Min(capacity, Math.Max(count, Math.Max(FirstRoom, 2 * Count)));
                Tensor larger = empty(
                        [rows.shape[0], rows.shape[1], room, rows.shape[3]],
                        dtype: rows.dtype,
                        device: rows.device
                    )
                    .DetachFromDisposeScope();
                if (buffer is not null)
                    larger.narrow(2, 0, Count).copy_(All);
                buffer?.Dispose();
                buffer = larger;
            }

            buffer.narrow(2, Count, rows.shape[2]).copy_(rows);
            Count = count;
        }

        public void Dispose()
        {
            buffer?.Dispose();
            buffer = null;
            Count = 0;
        }
    }
}
