using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// One segment of a branch whose rows lie on several ranks: which rows each rank keeps, and how the kept keys and
/// values are packed for the gather. A rank's part holds, head group by head group, the keys [sequences, rows, heads,
/// headDim], then the values likewise.
/// </summary>
/// <remarks>
/// What a query sees is decided by the positions that the peers hold, never by their order: causal queries see the keys
/// of the ranges before their own.
/// </remarks>
internal sealed class ShardedSegment
{
    private readonly ISegmentPeers peers;
    private readonly PositionRange[] peerRanges; // per peer
    private readonly int[] byPosition; // peers in the order of their positions
    private readonly IReadOnlyList<HeadGroup> groups;
    private readonly long sequences,
        headDim;
    private readonly long[,] keptRows; // [peer, group]
    private readonly long[,] starts; // first element of a group's keys within the peer's keys, [peer, group]
    private readonly long[] counts; // elements of keys and values, per peer
    private readonly long[] origins; // first element of a peer's part
    private readonly RowBlock[] ownBlocks; // per group

    /// <param name="branch">A branch whose segment is longer than the shard.</param>
    /// <param name="peers">The ranks that share the segment.</param>
    /// <param name="offsets">How the branch's offsets are dealt out among the heads.</param>
    /// <param name="heads">Number of heads.</param>
    /// <param name="headDim">Elements per head.</param>
    /// <param name="range">The sequences. Its Length is the rows held here of each, its Rows the tokens of each
    /// complete sequence.</param>
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
        long sequenceTokens = range.Rows;
        peerRanges = [.. peers.Shards.Select(shard => shard.Range)];
        byPosition = [.. Enumerable.Range(0, count).OrderBy(peer => peerRanges[peer].First)];
        long segmentStart = peerRanges[byPosition[0]].First;
        // Where the dilation divides every place at which a range may begin, all heads of a group keep rows at the same
        // places of each range.
        long divisor = CommonDivisor(segmentStart, sequenceTokens);
        groups =
            divisor % branch.Dilation == 0
                ? offsets.Groups(heads, branch.Dilation, divisor)
                : offsets.Groups(heads, branch.Dilation);
        sequences = range.Sequences;
        keptRows = new long[count, groups.Count];
        starts = new long[count, groups.Count];
        counts = new long[count];
        origins = new long[count];
        ownBlocks = new RowBlock[groups.Count];
        for (int peer = 0; peer < count; peer++)
        {
            long rowsBefore = peerRanges[peer].First - segmentStart,
                held = Math.Clamp(sequenceTokens - peerRanges[peer].First, 0, peerRanges[peer].Length),
                elements = 0;
            for (int g = 0; g < groups.Count; g++)
            {
                long first = RowBlock.FirstKeptRow(rowsBefore, groups[g].Offset, branch.Dilation);
                keptRows[peer, g] = RowBlock.KeptRows(held, first, branch.Dilation);
                starts[peer, g] = elements;
                elements += sequences * keptRows[peer, g] * groups[g].Heads * headDim;
                if (peer == peers.OwnIndex)
                    ownBlocks[g] = new RowBlock(
                        range.FirstSequence * range.Length + first,
                        keptRows[peer, g],
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
        ownBlocks.Select((block, group) => (group, block)).Where(pair => pair.block.Rows > 0);

    /// <summary>Elements of all gathered parts together.</summary>
    public long TotalElements { get; }

    /// <summary>Starts to gather every peer's kept keys and values. Collective among the peers.</summary>
    /// <param name="keys">[batch, length, heads, headDim].</param>
    /// <param name="values">Likewise.</param>
    /// <returns>Becomes all packed parts, [<see cref="TotalElements"/>].</returns>
    public IPendingTensor StartAllGather(Tensor keys, Tensor values)
    {
        Tensor packed = empty(counts[peers.OwnIndex], dtype: keys.dtype, device: keys.device);
        foreach (var (group, block) in OwnBlocks)
        {
            PackedView(packed, 0, peers.OwnIndex, group, Kind.Keys).copy_(block.View(keys));
            PackedView(packed, 0, peers.OwnIndex, group, Kind.Values).copy_(block.View(values));
        }

        return peers.StartAllGather(packed, counts);
    }

    /// <summary>
    /// The gathered keys and values that the own queries see without a mask, in the order of their positions, each
    /// [sequences, heads, rows, headDim], or null where there are none. If attention is causal, these are the keys at
    /// earlier positions; the own keys are not among them, because they need a mask. Otherwise these are all keys.
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
            visible.Where(LiesBeforeOwn).Sum(peer => keptRows[peer, group])
        );

        Tensor Concatenate(Kind kind)
        {
            Tensor[] views = [.. visible.Select(peer => PackedView(gathered, origins[peer], peer, group, kind))];
            return views.Length == 1 ? views[0] : cat(views, dim: 2);
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
            long count = keptRows[peer, group];
            PackedView(gradients, origins[peer], peer, group, Kind.Keys).copy_(keyGradient.narrow(2, row, count));
            PackedView(gradients, origins[peer], peer, group, Kind.Values).copy_(valueGradient.narrow(2, row, count));
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
            block
                .View(keyGradient)
                .add_(PackedView(reducedGradients, 0, peers.OwnIndex, group, Kind.Keys), Scalars.One);
            block
                .View(valueGradient)
                .add_(PackedView(reducedGradients, 0, peers.OwnIndex, group, Kind.Values), Scalars.One);
        }
    }

    private IEnumerable<int> VisiblePeers(int group, bool causal)
    {
        foreach (int peer in byPosition)
        {
            if (keptRows[peer, group] > 0 && (!causal || LiesBeforeOwn(peer)))
                yield return peer;
        }
    }

    private bool LiesBeforeOwn(int peer) => peerRanges[peer].First < peerRanges[peers.OwnIndex].First;

    // The largest number that divides the place in the segment where each peer's range begins, where it ends, and where
    // the sequences end. If a dilation divides it, all offsets keep equally many rows of a peer.
    private long CommonDivisor(long segmentStart, long sequenceTokens)
    {
        long common = Math.Abs(sequenceTokens - segmentStart);
        foreach (PositionRange range in peerRanges)
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
    private Tensor PackedView(Tensor packed, long origin, int peer, int group, Kind kind)
    {
        long count = keptRows[peer, group],
            heads = groups[group].Heads;
        long start = origin + starts[peer, group] + (kind == Kind.Values ? counts[peer] / 2 : 0);
        return packed.as_strided(
            [sequences, heads, count, headDim],
            [count * heads * headDim, headDim, heads * headDim, 1],
            packed.storage_offset() + start
        );
    }
}
