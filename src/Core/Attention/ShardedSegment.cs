using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// One segment of a branch whose rows lie on several shards: which rows each shard keeps, and how the kept keys and
/// values are packed for the exchange. A packed part holds, head group by head group, the keys
/// [sequences, rows, heads, headDim], then the values likewise.
/// </summary>
internal sealed class ShardedSegment
{
    private readonly ISegmentPeers peers;
    private readonly IReadOnlyList<HeadGroup> groups;
    private readonly long sequences,
        headDim;
    private readonly long[,] rows; // [peer, group]
    private readonly long[,] starts; // first element of a group's keys within the peer's keys, [peer, group]
    private readonly long[] counts; // elements of keys and values, per peer
    private readonly long[] origins; // first element of a peer's part
    private readonly RowBlock[] own; // per group

    /// <param name="branch">A branch whose segment is longer than the shard.</param>
    /// <param name="peers">Who shares the segment.</param>
    /// <param name="offsets">How the branch's offsets are dealt out among the heads.</param>
    /// <param name="heads">Number of heads.</param>
    /// <param name="headDim">Elements per head.</param>
    /// <param name="range">The sequences, rows held here of each, and as Rows those of each whole sequence.</param>
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
        // Shards are full up to the one in which the sequences end; all must keep equally many rows for every offset.
        groups = offsets.Groups(heads, branch.Dilation, GreatestCommonDivisor(range.Length, range.Rows));
        sequences = range.Sequences;
        rows = new long[peers.Shards.Count, groups.Count];
        starts = new long[peers.Shards.Count, groups.Count];
        counts = new long[peers.Shards.Count];
        origins = new long[peers.Shards.Count];
        own = new RowBlock[groups.Count];

        long segmentStart = peers.Shards[0].FirstRow;
        long origin = 0;
        for (int peer = 0; peer < peers.Shards.Count; peer++)
        {
            SequenceShard shard = peers.Shards[peer];
            long held = Math.Clamp(range.Rows - shard.FirstRow, 0, shard.Length);
            long elements = 0;
            for (int g = 0; g < groups.Count; g++)
            {
                // The first row at or after the shard's start that lies at offset (mod r) of the *global* segment
                // start.
                long before = shard.FirstRow - segmentStart - groups[g].Offset;
                long first = before <= 0 ? -before : (branch.Dilation - before % branch.Dilation) % branch.Dilation;
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

            origins[peer] = origin;
            counts[peer] = 2 * elements;
            origin += counts[peer];
        }

        TotalElements = origin;
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
    /// The gathered keys and values that the own queries see without a mask, each [sequences, heads, rows, headDim], or
    /// null where there are none. Causal: those of earlier shards, the own ones being masked. Otherwise all, the own
    /// ones among them.
    /// </summary>
    /// <returns>Keys, values, and how many of their rows lie before the own shard's.</returns>
    public (Tensor Keys, Tensor Values, long Before)? Visible(Tensor gathered, int group, bool causal)
    {
        int[] visible = [.. VisiblePeers(group, causal)];
        if (visible.Length == 0)
            return null;
        return (
            Concatenate(Kind.Keys),
            Concatenate(Kind.Values),
            visible.Where(peer => peer < peers.Own).Sum(peer => rows[peer, group])
        );

        Tensor Concatenate(Kind kind)
        {
            Tensor[] parts = [.. visible.Select(peer => Part(gathered, origins[peer], peer, group, kind))];
            return parts.Length == 1 ? parts[0] : cat(parts, dim: 2);
        }
    }

    /// <summary>
    /// Writes gradients of <see cref="Visible"/>'s keys and values to their places among all gathered parts.
    /// </summary>
    /// <param name="gradients">[<see cref="TotalElements"/>].</param>
    /// <param name="group">Head group.</param>
    /// <param name="causal">As given to <see cref="Visible"/>.</param>
    /// <param name="keyGradient">[sequences, heads, rows, headDim].</param>
    /// <param name="valueGradient">Likewise.</param>
    public void AddTo(Tensor gradients, int group, bool causal, Tensor keyGradient, Tensor valueGradient)
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
    /// Starts to bring the gradients of the own rows home, for <see cref="Add"/>. Collective among the peers.
    /// </summary>
    /// <param name="gradients">[<see cref="TotalElements"/>], what this shard's queries say about all gathered
    /// rows.</param>
    public IPendingTensor StartReduceScatter(Tensor gradients) => peers.StartReduceScatter(gradients, counts);

    /// <summary>Adds the gradients that have come home.</summary>
    /// <param name="home">What <see cref="StartReduceScatter"/> became.</param>
    /// <param name="keyGradient">[batch, length, heads, headDim]; added to.</param>
    /// <param name="valueGradient">Likewise.</param>
    public void Add(Tensor home, Tensor keyGradient, Tensor valueGradient)
    {
        foreach (var (group, block) in OwnBlocks)
        {
            block.View(keyGradient).add_(Part(home, 0, peers.Own, group, Kind.Keys), Numerics.Scalars.One);
            block.View(valueGradient).add_(Part(home, 0, peers.Own, group, Kind.Values), Numerics.Scalars.One);
        }
    }

    private IEnumerable<int> VisiblePeers(int group, bool causal)
    {
        for (int peer = 0; peer < (causal ? peers.Own : peers.Shards.Count); peer++)
        {
            if (rows[peer, group] > 0)
                yield return peer;
        }
    }

    private static long GreatestCommonDivisor(long a, long b) => b == 0 ? a : GreatestCommonDivisor(b, a % b);

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
