using System.Globalization;
using LongNet.Distributed.Collectives;

namespace LongNet.Distributed.DataParallel;

/// <summary>Parameters that lie side by side in flat memory and whose gradients travel together.</summary>
/// <param name="Layer">The transformer block they belong to; null for those of no block.</param>
/// <param name="Start">First element in flat memory.</param>
/// <param name="Length">Elements.</param>
/// <param name="Parameters">Places in the list that the layout was made of, in the order in which they lie.</param>
public sealed record Bucket(int? Layer, long Start, long Length, IReadOnlyList<int> Parameters);

/// <summary>The slice of a parameter that one rank updates.</summary>
/// <param name="Parameter">Place in the list that the layout was made of.</param>
/// <param name="Start">First element, within the parameter.</param>
/// <param name="Length">Elements; at least one.</param>
/// <param name="FlatStart">Where that element lies in flat memory.</param>
internal sealed record ParameterSlice(int Parameter, long Start, long Length, long FlatStart);

/// <summary>
/// How a model's parameters lie in flat memory: one bucket per transformer block ("layers.N."), the last block first,
/// as backward completes them, and the rest at the end, because a tied embedding is complete only when backward is. It
/// depends on the model alone. Ranks cut every bucket into even parts; a rank's shard is its parts of all buckets.
/// </summary>
public sealed class BucketLayout
{
    private const string LayerPrefix = "layers.";

    private readonly long[] starts,
        lengths;
    private readonly int[] bucketOf;

    /// <param name="parameters">Names and element counts, alike on every rank.</param>
    public BucketLayout(IReadOnlyList<(string Name, long Elements)> parameters)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        starts = new long[parameters.Count];
        lengths = [.. parameters.Select(entry => entry.Elements)];
        bucketOf = new int[parameters.Count];
        var buckets = new List<Bucket>();
        foreach (
            var group in Enumerable
                .Range(0, parameters.Count)
                .GroupBy(p => LayerOf(parameters[p].Name))
                .OrderByDescending(group => group.Key ?? -1)
        )
        {
            long start = Elements;
            foreach (int p in group)
            {
                bucketOf[p] = buckets.Count;
                starts[p] = Elements;
                Elements += lengths[p];
            }

            buckets.Add(new Bucket(group.Key, start, Elements - start, [.. group]));
        }

        Buckets = buckets;
    }

    /// <summary>In flat order, which is the order in which backward completes them.</summary>
    public IReadOnlyList<Bucket> Buckets { get; }

    /// <summary>Elements of all parameters.</summary>
    public long Elements { get; }

    /// <summary>Where a parameter's first element lies in flat memory.</summary>
    public long StartOf(int parameter) => starts[parameter];

    /// <summary>
    /// What a rank updates of every parameter that its shard touches, in flat order. Each is one slice at most.
    /// </summary>
    internal IReadOnlyList<ParameterSlice> Shard(int rank, int ranks) =>
        [
            .. Buckets
                .SelectMany(bucket => bucket.Parameters)
                .SelectMany(p => Owners(p, ranks))
                .Where(owner => owner.Rank == rank)
                .Select(owner => owner.Slice),
        ];

    /// <summary>
    /// The ranks that update a parameter, in their order, and which slice of it each; together they are all of it.
    /// </summary>
    internal IEnumerable<(int Rank, ParameterSlice Slice)> Owners(int parameter, int ranks)
    {
        long first = starts[parameter],
            end = first + lengths[parameter];
        Bucket bucket = Buckets[bucketOf[parameter]];
        long partStart = bucket.Start;
        long[] parts = ProcessGroup.EvenSplit(bucket.Length, ranks);
        for (int rank = 0; rank < ranks && partStart < end; partStart += parts[rank++])
        {
            long from = Math.Max(first, partStart),
                to = Math.Min(end, partStart + parts[rank]);
            if (to > from)
                yield return (rank, new ParameterSlice(parameter, from - first, to - from, from));
        }
    }

    private static int? LayerOf(string name)
    {
        if (!name.StartsWith(LayerPrefix, StringComparison.Ordinal))
            return null;
        ReadOnlySpan<char> rest = name.AsSpan(LayerPrefix.Length);
        int end = rest.IndexOf('.');
        return end > 0 && int.TryParse(rest[..end], NumberStyles.None, CultureInfo.InvariantCulture, out int layer)
            ? layer
            : null;
    }
}
