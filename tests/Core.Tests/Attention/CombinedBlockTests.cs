using LongNet.Core.Attention;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

/// <summary>Attention whose blocks are brought together at once, as on a GPU, by tensor operations.</summary>
public class CombinedBlockTests
{
    public static TheoryData<string, AttentionCase> Cases()
    {
        var data = new TheoryData<string, AttentionCase>();
        foreach (bool causal in new[] { true, false })
        {
            foreach (HeadOffsets offsets in Enum.GetValues<HeadOffsets>())
            {
                string name = $"causal {causal}, {offsets}";
                Add($"geometric, {name}", 2, 64, 4, 16, null, (16, 1), (32, 2), (64, 4));
                Add($"short last segments, {name}", 2, 50, 4, 5, null, (16, 1), (24, 3), (50, 5));
                Add($"more sequences than segments, {name}", 5, 37, 4, 8, null, (16, 1), (32, 2));
                Add($"dilation above the segment, {name}", 1, 24, 8, 8, null, (4, 6), (24, 2));
                Add($"rows of no branch, {name}", 2, 32, 2, 8, null, (16, 4));
                Add($"lengths, {name}", 3, 50, 4, 8, [37, 50, 5], (16, 1), (50, 3));
                Add($"one row, {name}", 3, 1, 2, 8, null, (4, 1), (8, 2));

                void Add(
                    string title,
                    long batch,
                    long length,
                    long heads,
                    long headDim,
                    long[]? lengths,
                    params (long W, long R)[] branches
                ) =>
                    data.Add(
                        title,
                        new AttentionCase(
                            batch,
                            length,
                            heads,
                            headDim,
                            new AttentionPattern(
                                new SegmentSchedule(branches.Select(branch => new Branch(branch.W, branch.R))),
                                causal,
                                offsets
                            ),
                            Lengths: lengths
                        )
                    );
            }
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Attend_BlocksCombinedAtOnce_MatchesOracle(string name, AttentionCase problem)
    {
        Assert.NotEmpty(name);
        Combined(new TensorBlockCombiner(), () =>
        {
            // Rounding of the types, as without a combiner.
            problem.AssertMatchesOracle(float64, 1e-12);
            problem.AssertMatchesOracle(float32, 1e-5);
            problem.AssertMatchesOracle(bfloat16, 4e-2);
        });
    }

    /// <summary>Runs a test with a combiner in place of none.</summary>
    internal static void Combined(BlockCombiner combiner, Action test)
    {
        BlockCombiner.Substitute.Value = combiner;
        try
        {
            test();
        }
        finally
        {
            BlockCombiner.Substitute.Value = null;
        }
    }
}
