using LongNet.Core.Attention;
using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Planning;

/// <summary>The cost of one branch of attention, for one sequence and one layer.</summary>
/// <param name="Branch">With its segment cut to the sequence.</param>
/// <param name="Span">Ranks that share a segment; 1 where segments are complete on ranks.</param>
/// <param name="Pairs">Pairs of a query and a key it sees, over all heads and the complete sequence.</param>
/// <param name="SlowestPairs">Those of the queries of the rank that has most of all branches together.</param>
/// <param name="KeptRows">Tokens that the slowest rank keeps, summed over heads: those it attends with.</param>
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
    private readonly SequenceLayout layout;
    private readonly long headDim;

    public AttentionCost(RunShape run)
    {
        this.run = run;
        layout = run.Layout;
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
        // A later rank of a sharded segment sees more keys. After so many ranks, segments of all branches begin again.
        long period = branches.Select(branch => (long)Span(branch)).Aggregate(Integers.LeastCommonMultiple);
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
        int span = Span(branch);
        long sent = span > 1 ? Elements(0) : 0,
            gathered = span > 1 ? layout.RanksOf(SegmentOf(branch, rank: 0)).Sum(Elements) : 0;

        double kept = Heads(branch)
            .Sum(group =>
                group.Heads
                * (
                    span > 1
                        ? KeptOfRank(branch, group.Offset, slowest)
                        : Segments(branch, run.TokensPerRank)
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

        // Of the keys and values that a rank keeps of a sharded segment.
        long Elements(int rank) =>
            2
            * run.Batch.MicroBatchSize
            * headDim
            * (long)Heads(branch).Sum(group => (double)group.Heads * KeptOfRank(branch, group.Offset, rank));
    }

    private int Span(Branch branch) => (int)Math.Max(1, branch.SegmentLength / run.TokensPerRank);

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
            return Pairs(branch, run.TokensPerRank);
        return Heads(branch)
            .Sum(group =>
            {
                double before = RowBlock.KeptRows(RowsBefore(branch, rank), group.Offset, branch.Dilation),
                    own = KeptOfRank(branch, group.Offset, rank);
                return group.Heads * own * (before + (own + 1) / 2);
            });
    }

    // Rows that a rank keeps of a sharded segment.
    private long KeptOfRank(Branch branch, long offset, int rank) =>
        RowBlock.KeptRows(
            layout.ShardOf(rank).Range.Length,
            RowBlock.FirstKeptRow(RowsBefore(branch, rank), offset, branch.Dilation),
            branch.Dilation
        );

    // Rows of a rank's segment that lie before the rank's own.
    private long RowsBefore(Branch branch, int rank) =>
        layout.ShardOf(rank).Range.First - SegmentOf(branch, rank).First;

    private PositionRange SegmentOf(Branch branch, int rank)
    {
        long segment = layout.ShardOf(rank).Range.First / branch.SegmentLength;
        return new PositionRange(segment * branch.SegmentLength, branch.SegmentLength);
    }

    // Whole segments, and the short last one.
    private static IEnumerable<(double Count, long Rows)> Segments(Branch branch, long rows)
    {
        yield return (rows / branch.SegmentLength, branch.SegmentLength);
        yield return (1, rows % branch.SegmentLength);
    }
}
