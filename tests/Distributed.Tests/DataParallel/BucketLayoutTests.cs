using LongNet.Distributed.DataParallel;

namespace LongNet.Distributed.Tests.DataParallel;

public class BucketLayoutTests
{
    private static readonly (string Name, long Elements)[] Parameters =
    [
        ("embed_tokens.weight", 100),
        ("layers.0.a", 7),
        ("layers.0.b", 3),
        ("layers.2.a", 5),
        ("layers.11.a", 1),
        ("layer_norm.weight", 11),
        // Of no block, although they look like it.
        ("layers.weight", 2),
        ("layers.x.weight", 3),
        ("mylayers.3.weight", 4),
    ];

    [Fact]
    public void Buckets_AreBlocksFromTheLastToTheFirstAndThenTheRest()
    {
        var layout = new BucketLayout(Parameters);
        Assert.Equal(136, layout.Elements);
        Assert.Equal(
            [(11, 0, 1, "4"), (2, 1, 5, "3"), (0, 6, 10, "1 2"), (null, 16, 120, "0 5 6 7 8")],
            layout.Buckets.Select(bucket =>
                (bucket.Layer, bucket.Start, bucket.Length, string.Join(" ", bucket.Parameters))
            )
        );
        Assert.Equal(
            [16, 6, 13, 1, 0, 116, 127, 129, 132],
            Enumerable.Range(0, Parameters.Length).Select(layout.StartOf)
        );
    }

    [Fact]
    public void Shard_OfTwoRanks_IsTheirHalfOfEveryBucket()
    {
        var layout = new BucketLayout(Parameters);
        Assert.Equal([new(4, 0, 1, 0), new(3, 0, 3, 1), new(1, 0, 5, 6), new(0, 0, 60, 16)], layout.Shard(0, 2));
        Assert.Equal(
            [
                new(3, 3, 2, 4),
                new(1, 5, 2, 11),
                new(2, 0, 3, 13),
                new(0, 60, 40, 76),
                new(5, 0, 11, 116),
                new(6, 0, 2, 127),
                new(7, 0, 3, 129),
                new(8, 0, 4, 132),
            ],
            layout.Shard(1, 2)
        );
    }

    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    [InlineData(7)]
    [InlineData(200)]
    public void Shards_OfAnyNumberOfRanks_HoldEveryElementOnce(int ranks)
    {
        var layout = new BucketLayout(Parameters);
        var holders = new int[layout.Elements];
        for (int rank = 0; rank < ranks; rank++)
        {
            long held = 0;
            foreach (ParameterSlice slice in layout.Shard(rank, ranks))
            {
                Assert.Equal(layout.StartOf(slice.Parameter) + slice.Start, slice.FlatStart);
                Assert.InRange(slice.Start + slice.Length, 1, Parameters[slice.Parameter].Elements);
                for (long element = slice.FlatStart; element < slice.FlatStart + slice.Length; element++)
                    holders[element]++;
                held += slice.Length;
            }

            Assert.InRange(
                held,
                layout.Elements / (double)ranks - layout.Buckets.Count,
                layout.Elements / (double)ranks + layout.Buckets.Count
            );
        }

        Assert.All(holders, count => Assert.Equal(1, count));
    }
}
