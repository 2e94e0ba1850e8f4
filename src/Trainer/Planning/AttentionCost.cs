using LongNet.Core.Attention;
using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Planning;

/// <summary>What one branch of attention comes to, for one sequence and one layer.</summary>
/// <param name="Branch">With its segment cut to the sequence.</param>
/// <param name="Span">Ranks that share a segment; 1 where segments lie whole on ranks.</param>
/// <param name="Pairs">Pairs of a query and a key it sees, over all heads and the whole sequence.</param>
/// <param name="SlowestPairs">Those of the queries of the rank that has most of all branches together.</param>
/// <param name="KeptRows">Rows that a rank keeps, summed over heads: those it attends with.</param>
/// <param name="SentElements">Elements of keys and values that rank 0 sends to those that share its segment.</param>
/// <param name="GatheredElements">Elements that every rank of the segment has then, its own among them.</param>
internal sealed record BranchCost(
    Branch Branch,
    int Span,
    double Pairs,
    double SlowestPairs,
    double KeptRows,
    long SentElements,
    long GatheredElements
);

/// <summary>
/// Attention by branch, exactly from the schedule: causal halves, head offsets and short last segments.
/// </summary>
internal sealed class AttentionCost
{
    // A pair is a multiplication and an addition per channel, in the logits and in the sum of the values.
    private const double FlopsPerPairAndChannel = 4;

    /// <summary>Backward computes the logits again and has four products where forward has two.</summary>
    public const double BackwardShare = 2.5;

    private readonly RunShape run;
    private readonly long headDim;

    public AttentionCost(RunShape run)
    {
        this.run = run;
        headDim = run.Model.DModel / run.Model.Heads;
        Branch[] branches =
        [
            .. run.Model.Schedule.Select(branch =>
                branch with
                {
                    SegmentLength = Math.Min(branch.SegmentLength, run.SequenceLength),
                }
            ),
        ];
        // A later rank of a shared segment sees more keys; all segments together begin anew after so many ranks.
        long period = branches.Select(branch => (long)Span(branch)).Aggregate(LeastCommonMultiple);
        int slowest = Enumerable
            .Range(0, (int)Math.Min(run.SequenceRanks, period))
            .MaxBy(rank => branches.Sum(branch => PairsOfRank(branch, rank)));
        Branches = [.. branches.Select(branch => Of(branch, slowest))];
    }

    public IReadOnlyList<BranchCost> Branches { get; }

    /// <summary>Operations of forward over all ranks, for one sequence and one layer.</summary>
    public double Flops => FlopsPerPairAndChannel * headDim * Branches.Sum(branch => branch.Pairs);

    /// <summary>Those of the rank that has most, for one sequence and one layer.</summary>
    public double SlowestFlops => FlopsPerPairAndChannel * headDim * Branches.Sum(branch => branch.SlowestPairs);

    private BranchCost Of(Branch branch, int slowest)
    {
        int span = Span(branch),
            shards = Math.Min(span, run.SequenceRanks);
        // Of shared segments, which shards share one begin with rank 0's.
        long sent = 0,
            gathered = 0;
        for (int shard = 0; span > 1 && shard < shards; shard++)
        {
            long elements =
                2
                * run.Batch.MicroBatchSize
                * headDim
                * (long)Heads(branch).Sum(group => (double)group.Heads * KeptOfShard(branch, group.Offset, shard));
            sent = shard == 0 ? elements : sent;
            gathered += elements;
        }

        double kept = Heads(branch)
            .Sum(group =>
                group.Heads
                * (
                    span > 1
                        ? KeptOfShard(branch, group.Offset, slowest % span)
                        : Segments(branch, run.RowsPerRank)
                            .Sum(segment =>
                                segment.Count * RowBlock.KeptRows(segment.Rows, group.Offset, branch.Dilation)
                            )
                )
            );
        return new BranchCost(
            branch,
            span,
            Pairs(branch, run.SequenceLength),
            PairsOfRank(branch, slowest),
            kept,
            sent,
            gathered
        );
    }

    private int Span(Branch branch) => (int)Math.Max(1, branch.SegmentLength / run.RowsPerRank);

    private IReadOnlyList<HeadGroup> Heads(Branch branch) =>
        run.Model.HeadOffsets.Groups(run.Model.Heads, branch.Dilation);

    // Causal: the n-th kept row of a segment sees n rows.
    private double Pairs(Branch branch, long rows) =>
        Heads(branch)
            .Sum(group =>
                group.Heads
                * Segments(branch, rows)
                    .Sum(segment =>
                    {
                        double kept = RowBlock.KeptRows(segment.Rows, group.Offset, branch.Dilation);
                        return segment.Count * kept * (kept + 1) / 2;
                    })
            );

    private double PairsOfRank(Branch branch, int rank)
    {
        int span = Span(branch);
        if (span == 1)
            return Pairs(branch, run.RowsPerRank);
        return Heads(branch)
            .Sum(group =>
            {
                double before = RowBlock.KeptRows(rank % span * run.RowsPerRank, group.Offset, branch.Dilation),
                    own = KeptOfShard(branch, group.Offset, rank % span);
                return group.Heads * own * (before + (own + 1) / 2);
            });
    }

    // Kept rows of a shard of a segment, which count from the segment's start.
    private long KeptOfShard(Branch branch, long offset, int shard) =>
        RowBlock.KeptRows((shard + 1) * run.RowsPerRank, offset, branch.Dilation)
        - RowBlock.KeptRows(shard * run.RowsPerRank, offset, branch.Dilation);

    private static long LeastCommonMultiple(long a, long b) =>
        a / (long)System.Numerics.BigInteger.GreatestCommonDivisor(a, b) * b;

    // Whole segments, and the short last one.
    private static IEnumerable<(double Count, long Rows)> Segments(Branch branch, long rows)
    {
        yield return (rows / branch.SegmentLength, branch.SegmentLength);
        yield return (1, rows % branch.SegmentLength);
    }
}
