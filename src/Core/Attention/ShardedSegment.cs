using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// One segment of a branch whose rows lie on several ranks: which rows each rank keeps, and how the kept keys and
/// values are packed for the gather. A rank's part holds, head group by head group, the keys
/// [sequences, rows, heads, headDim], then the values likewise.
/// </summary>
/// <remarks>
/// What a query sees is decided by the positions that the peers hold, never by their order: causal queries see the keys
/// of the ranges before their own.
/// </remarks>
internal sealed class ShardedSegment
{
    private readonly ISegmentPeers peers;
    private readonly PositionRange[] ranges; // per peer
    private readonly int[] byPosition; // peers in the order of their positions
    private readonly IReadOnlyList<HeadGroup> groups;
    private readonly long sequences,
        headDim;
    private readonly long[,] rows; // [peer, group]
    private readonly long[,] starts; // first element of a group's keys within the peer's keys, [peer, group]
    private readonly long[] counts; // elements of keys and values, per peer
    private readonly long[] origins; // first element of a peer's part
    private readonly RowBlock[] own; // per group

    /// <param name="branch">A branch whose segment is longer than the shard.</param>
    /// <param name="peers">The ranks that share the segment.</param>
    /// <param name="offsets">How the branch's offsets are dealt out among the heads.</param>
    /// <param name="heads">Number of heads.</param>
    /// <param name="headDim">Elements per head.</param>
    /// <param name="range">The sequences, rows held here of each, and as Rows the tokens of each complete
    /// sequence.</param>
    public ShardedSegment(
        Branch branch,
        ISegmentPeers peers,
        HeadOffsets offsets,
        long heads,
        long headDim,
        RowRange range
    )
    {
        this.peers = peers;
        this.headDim = headDim;
        int count = peers.Shards.Count;
        ranges = [.. peers.Shards.Select(shard => shard.Range)];
        byPosition = [.. Enumerable.Range(0, count).OrderBy(peer => ranges[peer].First)];
        long segmentStart = ranges[byPosition[0]].First;
        groups = offsets.Groups(heads, branch.Dilation, CommonRows(segmentStart, range.Rows));
        sequences = range.Sequences;
        rows = new long[count, groups.Count];
        starts = new long[count, groups.Count];
        counts = new long[count];
        origins = new long[count];
        own = new RowBlock[groups.Count];
        for (int peer = 0; peer < count; peer++)
        {
            long rowsBefore = ranges[peer].First - segmentStart,
                held = Math.Clamp(range.Rows - ranges[peer].First, 0, ranges[peer].Length),
                elements = 0;
            for (int g = 0; g < groups.Count; g++)
            {
                long first = RowBlock.FirstKeptRow(rowsBefore, groups[g].Offset, branch.Dilation);
                rows[peer, g] = RowBlock.KeptRows(held, first, branch.Dilation);
                starts[peer, g] = elements;
                elements += sequences * rows[peer, g] * groups[g].Heads * headDim;
                if (peer == peers.Own)
                    own[g] = new RowBlock(
                        range.FirstSequence * range.Length + first,
                        rows[peer, g],
                        branch.Dilation,
                        sequences,
                        range.Length,
                        groups[g]
                    );
            }

            origins[peer] = TotalElements;
            counts[peer] = 2 * elements;
            TotalElements += counts[peer];
        }
    }

    /// <summary>The own rows of every head group that keeps some, with the group's index.</summary>
    public IEnumerable<(int Group, RowBlock Block)> OwnBlocks =>
        own.Select((block, group) => (group, block)).Where(pair => pair.block.Rows > 0);

    /// <summary>Elements of all gathered parts together.</summary>
    public long TotalElements { get; }

    /// <summary>Starts to gather every peer's kept keys and values. Collective among the peers.</summary>
    /// <param name="keys">[batch, length, heads, headDim].</param>
    /// <param name="values">Likewise.</param>
    /// <returns>Becomes all packed parts, [<see cref="TotalElements"/>].</returns>
    public IPendingTensor StartAllGather(Tensor keys, Tensor values)
    {
        Tensor packed = empty(counts[peers.Own], dtype: keys.dtype, device: keys.device);
        foreach (var (group, block) in OwnBlocks)
        {
            Part(packed, 0, peers.Own, group, Kind.Keys).copy_(block.View(keys));
            Part(packed, 0, peers.Own, group, Kind.Values).copy_(block.View(values));
        }

        return peers.StartAllGather(packed, counts);
    }

    /// <summary>
    /// The gathered keys and values that the own queries see without a mask, in the order of their positions, each
    /// [sequences, heads, rows, headDim], or null where there are none. Causal: those at earlier positions than the own
    /// ones, which need a mask. Otherwise all, the own ones among them.
    /// </summary>
    /// <returns>Keys, values, and how many of their rows lie before the own ones.</returns>
    public (Tensor Keys, Tensor Values, long KeyOffset)? Visible(Tensor gathered, int group, bool causal)
    {
        int[] visible = [.. VisiblePeers(group, causal)];
        if (visible.Length == 0)
            return null;
        return (
            Concatenate(Kind.Keys),
            Concatenate(Kind.Values),
            visible.Where(LiesBeforeOwn).Sum(peer => rows[peer, group])
        );

        Tensor Concatenate(Kind kind)
        {
            Tensor[] parts = [.. visible.Select(peer => Part(gathered, origins[peer], peer, group, kind))];
            return parts.Length == 1 ? parts[0] : cat(parts, dim: 2);
        }
    }

    /// <summary>
    /// Writes the gradients of <see cref="Visible"/>'s keys and values to their places among all parts.
    /// </summary>
    /// <param name="gradients">[<see cref="TotalElements"/>].</param>
    /// <param name="group">Head group.</param>
    /// <param name="causal">As given to <see cref="Visible"/>.</param>
    /// <param name="keyGradient">[sequences, heads, rows, headDim].</param>
    /// <param name="valueGradient">Likewise.</param>
    public void Scatter(Tensor gradients, int group, bool causal, Tensor keyGradient, Tensor valueGradient)
    {
        long row = 0;
        foreach (int peer in VisiblePeers(group, causal))
        {
            long count = rows[peer, group];
            Part(gradients, origins[peer], peer, group, Kind.Keys).copy_(keyGradient.narrow(2, row, count));
            Part(gradients, origins[peer], peer, group, Kind.Values).copy_(valueGradient.narrow(2, row, count));
            row += count;
        }
    }

    /// <summary>
    /// Starts to sum the gradients of every peer's rows over the peers; each receives the sum for its own rows, for
    /// <see cref="Add"/>. Collective among the peers.
    /// </summary>
    /// <param name="gradients">[<see cref="TotalElements"/>], from this rank's queries.</param>
    public IPendingTensor StartReduceScatter(Tensor gradients) => peers.StartReduceScatter(gradients, counts);

    /// <summary>Adds the summed gradients of the own rows.</summary>
    /// <param name="reducedGradients">The result of <see cref="StartReduceScatter"/>.</param>
    /// <param name="keyGradient">[batch, length, heads, headDim]; added to.</param>
    /// <param name="valueGradient">Likewise.</param>
    public void Add(Tensor reducedGradients, Tensor keyGradient, Tensor valueGradient)
    {
        foreach (var (group, block) in OwnBlocks)
        {
            block.View(keyGradient).add_(Part(reducedGradients, 0, peers.Own, group, Kind.Keys), Scalars.One);
            block.View(valueGradient).add_(Part(reducedGradients, 0, peers.Own, group, Kind.Values), Scalars.One);
        }
    }

    private IEnumerable<int> VisiblePeers(int group, bool causal)
    {
        foreach (int peer in byPosition)
        {
            if (rows[peer, group] > 0 && (!causal || LiesBeforeOwn(peer)))
                yield return peer;
        }
    }

    private bool LiesBeforeOwn(int peer) => ranges[peer].First < ranges[peers.Own].First;

    // Every offset of a dilation that divides this keeps equally many rows on every peer: ranges begin and end at
    // multiples of it within the segment, and so do the sequences, which end inside of a range.
    private long CommonRows(long segmentStart, long sequenceRows)
    {
        long common = Math.Abs(sequenceRows - segmentStart);
        foreach (PositionRange range in ranges)
        {
            common = Integers.GreatestCommonDivisor(common, range.Length);
            common = Integers.GreatestCommonDivisor(common, range.First - segmentStart);
        }

        return common;
    }

    private enum Kind
    {
        Keys,
        Values,
    }

    // [sequences, heads, rows, headDim], a view of the packed part that begins at `origin`.
    private Tensor Part(Tensor packed, long origin, int peer, int group, Kind kind)
    {
        long count = rows[peer, group],
            heads = groups[group].Heads;
        long start = origin + starts[peer, group] + (kind == Kind.Values ? counts[peer] / 2 : 0);
        return packed.as_strided(
            [sequences, heads, count, headDim],
            [count * heads * headDim, headDim, heads * headDim, 1],
            packed.storage_offset() + start
        );
    }
}
