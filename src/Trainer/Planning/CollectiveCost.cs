using LongNet.Core.Model;
using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Planning;

/// <summary>What a collective carries.</summary>
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
internal sealed record CollectiveCost
{
    // The numbers of valid targets are summed; sharded, the squares of gradients too. Losses and peaks of memory are
    // gathered together. As float64.
    private const int Sums = 1,
        ShardedSums = 2,
        Pair = 2;

    /// <summary>What it carries and how.</summary>
    public required string Name { get; init; }

    /// <summary>What it is for.</summary>
    public required CollectiveUse Use { get; init; }

    /// <summary>Ranks that take part.</summary>
    public required int Ranks { get; init; }

    /// <summary>How often in a step.</summary>
    public required long Calls { get; init; }

    /// <summary>Payload that rank 0 sends in a step, by the rule of metrics.jsonl's bytes_sent.</summary>
    public required double SentBytes { get; init; }

    /// <summary>Bytes that cross a rank's link in a step.</summary>
    public required double LinkBytes { get; init; }

    /// <summary>Those of the last call, which no computation is left to hide.</summary>
    public double LastCallLinkBytes { get; init; }

    /// <summary>All collectives of one optimizer step; none where a single rank trains.</summary>
    public static IReadOnlyList<CollectiveCost> Of(RunShape run, AttentionCost attention) =>
        [
            .. run.Ranks > 1 ? OfParameters(run) : [],
            .. run.Ranks > 1 ? OfScalars(run) : [],
            .. attention.Branches.Where(branch => branch.Span > 1).SelectMany(branch => OfBranch(run, branch)),
        ];

    // An all-reduce is a reduce-scatter and an all-gather. A bucket per block, and one for the rest, which is the last.
    private static IEnumerable<CollectiveCost> OfParameters(RunShape run)
    {
        double bytes = (double)run.Parameters.Total * RunShape.Float32Bytes,
            lastBytes = (double)run.Parameters.Outside * RunShape.Float32Bytes,
            ownBytes = OwnPart(run) * (double)RunShape.Float32Bytes;
        if (run.Config.Parallel.ShardOptimizer)
        {
            yield return Buckets("gradients: reduce-scatter", passes: 1, bytes - ownBytes);
            yield return Buckets("parameters: all-gather", passes: 1, ownBytes);
        }
        else
        {
            yield return Buckets("gradients: all-reduce", passes: 2, bytes);
        }

        CollectiveCost Buckets(string name, int passes, double sentBytes)
        {
            double linkShare = passes * (run.Ranks - 1.0) / run.Ranks;
            return new CollectiveCost
            {
                Name = name,
                Use = CollectiveUse.Parameters,
                Ranks = run.Ranks,
                Calls = run.Parameters.Blocks + 1,
                SentBytes = sentBytes,
                LinkBytes = linkShare * bytes,
                LastCallLinkBytes = linkShare * lastBytes,
            };
        }
    }

    private static IEnumerable<CollectiveCost> OfScalars(RunShape run)
    {
        int sums = run.Config.Parallel.ShardOptimizer ? ShardedSums : Sums;
        yield return new CollectiveCost
        {
            Name = "sums of one number: all-reduce",
            Use = CollectiveUse.Scalars,
            Ranks = run.Ranks,
            Calls = sums,
            SentBytes = sums * sizeof(double),
            LinkBytes = sums * sizeof(double),
        };
        yield return new CollectiveCost
        {
            Name = "the loss and the peak of memory: all-gather",
            Use = CollectiveUse.Scalars,
            Ranks = run.Ranks,
            Calls = 1,
            SentBytes = Pair * sizeof(double),
            LinkBytes = (run.Ranks - 1) * Pair * sizeof(double),
        };
    }

    private static IEnumerable<CollectiveCost> OfBranch(RunShape run, BranchCost branch)
    {
        int peers = Math.Min(branch.Span, run.SequenceRanks);
        long layers = run.Model.Layers * run.Batch.MicroSteps,
            // Attention that backward recomputes gathers again.
            gathers = layers * (run.Config.Memory.Recompute == Recompute.Full ? 2 : 1);
        double own = (double)branch.SentElements * run.ElementBytes,
            others = (double)(branch.GatheredElements - branch.SentElements);
        yield return new CollectiveCost
        {
            Name = $"keys and values of {branch.Branch}: all-gather",
            Use = CollectiveUse.KeyValues,
            Ranks = peers,
            Calls = gathers,
            SentBytes = gathers * own,
            LinkBytes = gathers * others * run.ElementBytes,
        };
        // Summed in float32 whatever the compute type.
        double gradients = layers * others * RunShape.Float32Bytes;
        yield return new CollectiveCost
        {
            Name = $"their gradients of {branch.Branch}: reduce-scatter",
            Use = CollectiveUse.KeyValueGradients,
            Ranks = peers,
            Calls = layers,
            SentBytes = gradients,
            LinkBytes = gradients,
        };
    }

    // Elements of all buckets that rank 0 updates: it has one more where parts are not even.
    private static long OwnPart(RunShape run)
    {
        return OfBucket(run.Parameters.Outside) + run.Parameters.Blocks * OfBucket(run.Parameters.PerBlock);

        long OfBucket(long elements) => (elements + run.Ranks - 1) / run.Ranks;
    }
}
