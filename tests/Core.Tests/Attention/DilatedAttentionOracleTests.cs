using CsCheck;
using LongNet.Core.Attention;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

public class DilatedAttentionOracleTests
{
    // float64 rounding of sums of a few hundred terms.
    private const double Float64Tolerance = 1e-12;

    // float32 rounding (6e-8) of the same sums, and of the kernel's exponentials.
    private const double Float32Tolerance = 2e-5;

    // bfloat16 keeps 8 bits: one rounding of inputs' products, probabilities and outputs each is up to 4e-3.
    private const double BFloat16Tolerance = 4e-2;

    // float16 keeps 11 bits: an eighth of bfloat16's rounding.
    private const double Float16Tolerance = 5e-3;

    public static TheoryData<string, AttentionCase> Cases()
    {
        var data = new TheoryData<string, AttentionCase>();
        foreach (bool causal in new[] { false, true })
        {
            foreach (HeadOffsets offsets in Enum.GetValues<HeadOffsets>())
            {
                Add("one segment, one branch", 1, 16, 2, 8, (16, 1));
                Add("several segments, one branch", 2, 64, 4, 8, (16, 2));
                Add("the paper's geometric schedule", 2, 64, 4, 8, (16, 1), (32, 2), (64, 4));
                Add("length no segment divides", 2, 50, 4, 8, (16, 1), (32, 2), (64, 4));
                Add("more sequences than segments", 5, 37, 4, 8, (16, 1), (32, 2));
                Add("dilation that divides neither segment nor heads", 1, 48, 4, 8, (12, 1), (24, 3));
                Add("dilation above the head count", 2, 64, 2, 8, (16, 1), (64, 5));
                Add("dilation above the segment", 1, 24, 8, 4, (4, 6), (24, 2));
                Add("rows no branch keeps", 2, 32, 2, 8, (16, 4));
                Add("one row", 3, 1, 2, 8, (4, 1), (8, 2));
                Add("odd head size", 1, 20, 3, 5, (8, 1), (20, 3));

                void Add(
                    string name,
                    long batch,
                    long length,
                    long heads,
                    long headDim,
                    params (long W, long R)[] branches
                ) =>
                    data.Add(
                        $"{name}, {(causal ? "causal" : "bidirectional")}, {offsets}",
                        new AttentionCase(
                            batch,
                            length,
                            heads,
                            headDim,
                            new AttentionPattern(
                                new SegmentSchedule(branches.Select(branch => new Branch(branch.W, branch.R))),
                                causal,
                                offsets
                            )
                        )
                    );
            }
        }

        return data;
    }

    public static TheoryData<string, AttentionCase> CasesWithBiasAndLengths()
    {
        var data = new TheoryData<string, AttentionCase>();
        foreach (bool causal in new[] { false, true })
        {
            foreach (HeadOffsets offsets in Enum.GetValues<HeadOffsets>())
            {
                // Few buckets and a short distance: all kinds of bucket occur within 50 rows.
                var buckets = new RelativePositionBuckets(12, 20, Bidirectional: !causal);
                var options = new AttentionPattern(
                    new SegmentSchedule(new Branch(16, 1), new Branch(32, 2), new Branch(50, 3)),
                    causal,
                    offsets
                );
                Add("bias", new AttentionCase(2, 50, 4, 8, options, Buckets: buckets));
                Add("bias, one row", new AttentionCase(2, 1, 4, 8, options, Buckets: buckets));
                Add(
                    "bias of both directions",
                    new AttentionCase(2, 50, 4, 8, options, Buckets: buckets with { Bidirectional = true })
                );
                Add("lengths", new AttentionCase(5, 50, 4, 8, options, Lengths: [37, 0, 50, 8, 1]));
                Add("equal lengths", new AttentionCase(4, 50, 4, 8, options, Lengths: [32, 32, 32, 50]));
                Add("nothing but padding", new AttentionCase(2, 50, 4, 8, options, Lengths: [0, 0]));
                Add(
                    "bias and lengths",
                    new AttentionCase(3, 50, 4, 8, options, Lengths: [37, 50, 5], Buckets: buckets)
                );
                Add(
                    "bias, segments of more queries than a tile",
                    new AttentionCase(
                        1,
                        600,
                        2,
                        4,
                        options with
                        {
                            Schedule = new(new Branch(600, 1), new Branch(600, 2)),
                        },
                        Buckets: buckets
                    )
                );

                void Add(string name, AttentionCase problem) =>
                    data.Add($"{name}, {(causal ? "causal" : "bidirectional")}, {offsets}", problem);
            }
        }

        return data;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    [MemberData(nameof(CasesWithBiasAndLengths))]
    public void Attend_Table_MatchesOracle(string name, AttentionCase problem)
    {
        Assert.NotEmpty(name);
        problem.AssertMatchesOracle(float64, Float64Tolerance);
        problem.AssertMatchesOracle(float32, Float32Tolerance);
        problem.AssertMatchesOracle(bfloat16, BFloat16Tolerance);
        problem.AssertMatchesOracle(float16, Float16Tolerance);
    }

    [Fact]
    public void Attend_RandomProblems_MatchOracle()
    {
        Gen<Branch> branch = Gen.Select(Gen.Long[1, 40], Gen.Long[1, 7]).Select((w, r) => new Branch(w, r));
        var problems = Gen.Select(
            Gen.Long[1, 3],
            Gen.Long[1, 48],
            Gen.Long[1, 5],
            Gen.Long[1, 8],
            branch.Array[1, 4],
            Gen.Bool,
            Gen.Enum<HeadOffsets>(),
            Gen.Int[0, 1_000_000]
        );
        problems.Sample(
            (batch, length, heads, headDim, branches, causal, offsets, seed) =>
            {
                var random = new Random(seed);
                new AttentionCase(
                    batch,
                    length,
                    heads,
                    headDim,
                    new AttentionPattern(new SegmentSchedule(branches), causal, offsets),
                    seed,
                    random.Next(2) == 0
                        ? null
                        : [.. Enumerable.Range(0, (int)batch).Select(_ => random.NextInt64(length + 1))],
                    random.Next(2) == 0
                        ? null
                        : new RelativePositionBuckets(4 + 2 * random.Next(6), 8 + random.Next(30), !causal)
                ).AssertMatchesOracle(float64, Float64Tolerance);
            },
            iter: 300,
            threads: 1
        );
    }
}
