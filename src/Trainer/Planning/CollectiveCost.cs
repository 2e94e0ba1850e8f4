using LongNet.Core.Model;

namespace LongNet.Trainer.Planning;

/// <summary>What travels.</summary>
internal enum CollectiveUse
{
    /// <summary>Gradients or parameters of a bucket, among all ranks.</summary>
    Parameters,

    /// <summary>Kept keys and values of a shared segment, forward.</summary>
    KeyValues,

    /// <summary>Their gradients, backward.</summary>
    KeyValueGradients,

    /// <summary>One number.</summary>
    Scalars,
}

/// <summary>A collective of a step.</summary>
/// <param name="Name">What it carries and how.</param>
/// <param name="Use">What it is for.</param>
/// <param name="Ranks">Ranks that take part.</param>
/// <param name="Calls">How often in a step.</param>
/// <param name="SentBytes">Payload that rank 0 sends in a step, by the rule of metrics.jsonl's bytes_sent.</param>
/// <param name="LinkBytes">Bytes that cross a rank's link in a step.</param>
/// <param name="LastCallLinkBytes">Those of the last call, which nothing is left to hide.</param>
internal sealed record CollectiveCost(
    string Name,
    CollectiveUse Use,
    int Ranks,
    long Calls,
    double SentBytes,
    double LinkBytes,
    double LastCallLinkBytes
)
{
    // The numbers of valid targets are summed; sharded, the squares of gradients too. Losses and peaks of memory are
    // gathered together. As float64.
    private const int Sums = 1,
        ShardedSums = 2,
        Pair = 2;

    /// <summary>All collectives of one optimizer step; none where one rank trains alone.</summary>
    public static IReadOnlyList<CollectiveCost> Of(PlannedRun run, ParameterCost parameters, AttentionCost attention)
    {
        var all = new List<CollectiveCost>();
        if (run.Ranks > 1)
        {
            all.AddRange(
                run.Config.Parallel.ShardOptimizer
                    ?
                    [
                        Parameters("gradients: reduce-scatter", 1, parameters, run.Ranks, false),
                        Parameters("parameters: all-gather", 1, parameters, run.Ranks, true),
                    ]
                    : [Parameters("gradients: all-reduce", 2, parameters, run.Ranks, null)]
            );
            int sums = run.Config.Parallel.ShardOptimizer ? ShardedSums : Sums;
            all.Add(
                new CollectiveCost(
                    "sums of one number: all-reduce",
                    CollectiveUse.Scalars,
                    run.Ranks,
                    sums,
                    sums * sizeof(double),
                    sums * sizeof(double),
                    0
                )
            );
            all.Add(
                new CollectiveCost(
                    "the loss and the peak of memory: all-gather",
                    CollectiveUse.Scalars,
                    run.Ranks,
                    1,
                    Pair * sizeof(double),
                    (run.Ranks - 1) * Pair * sizeof(double),
                    0
                )
            );
        }

        long layers = run.Model.Layers * run.Batch.MicroSteps;
        foreach (BranchCost branch in attention.Branches.Where(branch => branch.Span > 1))
        {
            int peers = Math.Min(branch.Span, run.SequenceRanks);
            // Attention that backward computes again gathers again.
            long gathers = layers * (run.Config.Memory.Recompute == Recompute.Full ? 2 : 1);
            double own = (double)branch.SentElements * run.ElementBytes,
                others = (double)(branch.GatheredElements - branch.SentElements);
            all.Add(
                new CollectiveCost(
                    $"keys and values of {branch.Branch}: all-gather",
                    CollectiveUse.KeyValues,
                    peers,
                    gathers,
                    gathers * own,
                    gathers * others * run.ElementBytes,
                    0
                )
            );
            // Summed in float32 whatever the compute type.
            double home = layers * others * PlannedRun.SingleBytes;
            all.Add(
                new CollectiveCost(
                    $"their gradients of {branch.Branch}: reduce-scatter",
                    CollectiveUse.KeyValueGradients,
                    peers,
                    layers,
                    home,
                    home,
                    0
                )
            );
        }

        return all;
    }

    // An all-reduce is a reduce-scatter and an all-gather. A bucket per block, and one for the rest, which is the last.
    private static CollectiveCost Parameters(
        string name,
        int passes,
        ParameterCost parameters,
        int ranks,
        bool? sendsOwnPart
    )
    {
        double bytes = (double)parameters.Total * PlannedRun.SingleBytes,
            last = (double)parameters.Outside * PlannedRun.SingleBytes,
            link = passes * (ranks - 1.0) / ranks;
        double own = OwnPart(parameters.Outside, ranks) + parameters.Layers * OwnPart(parameters.PerBlock, ranks);
        double sent = sendsOwnPart switch
        {
            null => bytes,
            true => own * PlannedRun.SingleBytes,
            false => bytes - own * PlannedRun.SingleBytes,
        };
        return new CollectiveCost(
            name,
            CollectiveUse.Parameters,
            ranks,
            parameters.Layers + 1,
            sent,
            link * bytes,
            link * last
        );
    }

    // Rank 0 has one element more where parts are not even.
    private static long OwnPart(long elements, int ranks) => (elements + ranks - 1) / ranks;
}
