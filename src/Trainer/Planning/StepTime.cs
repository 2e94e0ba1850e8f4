using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Planning.Machines;

namespace LongNet.Trainer.Planning;

/// <summary>What a part of a step waits for.</summary>
internal enum Resource
{
    /// <summary>Operations of products and attention.</summary>
    Compute,

    /// <summary>Bytes between processor and memory.</summary>
    MemoryBandwidth,

    /// <summary>Collectives that no computation hides.</summary>
    Network,

    /// <summary>What is offloaded, where computation does not hide it.</summary>
    Disk,

    /// <summary>Starting operations, however small.</summary>
    Calls,
}

/// <summary>A part of a step on the slowest rank.</summary>
/// <param name="Name">What it does.</param>
/// <param name="Seconds">How long it takes, all micro-batches together.</param>
/// <param name="Bound">What limits it.</param>
internal sealed record PartTime(string Name, double Seconds, Resource Bound);

/// <summary>
/// The time of an optimizer step: parts one after another, each as fast as the resource that limits it allows.
/// </summary>
internal sealed record StepTime(IReadOnlyList<PartTime> Parts)
{
    // Operations that libtorch starts for a block: norms, products, views, rotation, GELU and sums; backward has their
    // derivatives and the additions to gradients. A tile of a recomputed block starts all of them anew.
    private const double ForwardCalls = 30,
        BackwardCalls = 60;

    // Passes over tensors of residual rows in forward: two norms and two copies of biases read and write one, two sums
    // read two and write one.
    private const double ForwardPasses = 2 * 2 + 2 * 2 + 2 * 3;

    // Likewise in backward: norms read two and write one, and read two for their own parameters; sums; four biases'
    // gradients.
    private const double BackwardPasses = 2 * 5 + 2 * 3 + 4;

    // Rotating reads and writes queries and keys in float32; in 16 bits it converts both ways.
    private const double RotationPasses = 4;

    // GELU reads and writes hidden rows, and the bias was copied there; backward reads two, writes one, and sums for
    // the bias.
    private const double HiddenForwardPasses = 3,
        HiddenBackwardPasses = 4;

    // Where blocks are recomputed, queries, keys and values are copied out of tiles twice, the output and two gradients
    // once, rows and gradients are stacked for the projections, and the input's two gradients added.
    private const double TilePasses = 2 * 3 * 2 + 3 * 2 + 2 * 3 * 2 + 3;

    // A branch's result is written, read and mixed into what is read and written; its three gradients are written, read
    // and added.
    private const double MixingPasses = 4,
        GradientMixingPasses = 12;

    // Logits are written, made into logarithms, then probabilities, and read by two products.
    private const double LogitPasses = 7;

    // AdamW reads parameter, gradient and moments and writes three of them.
    private const double UpdatePasses = 7;

    // Gradients are set to zero, read for their norm by way of float64, and scaled.
    private const double GradientPasses = 1 + 5 + 2;

    public double Seconds => Parts.Sum(part => part.Seconds);

    /// <summary>The resource that takes most of the step.</summary>
    public Resource Bound => Parts.GroupBy(part => part.Bound).MaxBy(group => group.Sum(part => part.Seconds))!.Key;

    public static StepTime Of(
        PlannedRun run,
        ParameterCost parameters,
        AttentionCost attention,
        IReadOnlyList<CollectiveCost> collectives,
        MemoryCost memory,
        Machine machine
    )
    {
        double micro = run.Batch.MicroSteps,
            layers = run.Model.Layers * micro;
        LongNetConfig model = run.Model;
        bool recomputes = run.Config.Memory.Recompute != Recompute.None;
        double a = run.Activation(model.DModel),
            hidden = run.Activation(model.FeedForward),
            single = run.LocalRows * model.DModel * (double)PlannedRun.SingleBytes;

        PartTime projections = Products(
            "projections",
            layers,
            1 + ProductCost.BackwardShare,
            ProductCost.Projections(run) + ProductCost.Mixed(run)
        );
        PartTime feedForward = Products(
            "feed-forward",
            layers,
            1 + ProductCost.BackwardShare,
            ProductCost.FeedForward(run)
        );
        PartTime output = Products("output projection", micro, 1 + ProductCost.BackwardShare, ProductCost.Logits(run));
        double pairs = run.Batch.MicroBatchSize * attention.SlowestFlops / machine.AttentionRate(run.ElementBytes);
        var attending = new PartTime("attention", layers * pairs * (1 + AttentionCost.BackwardShare), Resource.Compute);
        var (projectionsAgain, feedForwardAgain) = Operations.ProductsAgain(run);
        PartTime again = Products("recomputed products", layers, 1, projectionsAgain + feedForwardAgain);
        var attendingAgain = new PartTime(
            "recomputed attention",
            layers * pairs * Operations.AttentionAgain(run),
            Resource.Compute
        );

        double kept =
            attention.Branches.Sum(branch => branch.KeptRows)
            * run.Batch.MicroBatchSize
            * (model.DModel / model.Heads)
            * PlannedRun.SingleBytes;
        double rotation =
            model.Positions == PositionEncoding.None
                ? 0
                : RotationPasses * single
                    + (run.ElementBytes < PlannedRun.SingleBytes ? RotationPasses * (single + a) : 0);
        // libtorch's element-wise operators on CPUs work in float32 whatever the type, and are held up by that rather
        // than by memory.
        double worked = machine.Processors is null ? a : single,
            workedHidden = machine.Processors is null ? hidden : hidden * PlannedRun.SingleBytes / run.ElementBytes;
        double forwardBytes =
            ForwardPasses * worked + rotation + HiddenForwardPasses * workedHidden + MixingPasses * kept;
        double backwardBytes =
            BackwardPasses * worked
            + rotation
            + HiddenBackwardPasses * workedHidden
            + 3 * single
            + GradientMixingPasses * kept;
        double bytes =
            layers * (forwardBytes * (recomputes ? 2 : 1) + backwardBytes + (recomputes ? TilePasses * a : 0))
            + micro * (LogitPasses * run.LocalRows * model.Vocabulary * PlannedRun.SingleBytes + 4 * a);
        var byElement = new PartTime("work by element", bytes / machine.MemoryBandwidth, Resource.MemoryBandwidth);
        double updated = parameters.Total / (double)(run.Config.Parallel.ShardOptimizer ? run.Ranks : 1);
        var optimizer = new PartTime(
            "optimizer",
            (UpdatePasses * updated + GradientPasses * parameters.Total)
                * PlannedRun.SingleBytes
                / machine.MemoryBandwidth,
            Resource.MemoryBandwidth
        );
        // What is given back after each step is handed out anew in the next.
        double touched =
            recomputes && machine.KeepsHoles && run.Config.Runtime.Allocator == AllocatorSetting.Tuned
                ? memory.Activations + memory.Gathered + memory.Logits + memory.Workspace + memory.Allocator
                : 0;
        var handedOut = new PartTime(
            "fresh memory",
            touched / (machine.FirstTouch ?? double.PositiveInfinity),
            Resource.MemoryBandwidth
        );
        double tiles = recomputes
            ? Math.Max(1, run.LocalRows * (double)Math.Max(model.DModel, model.FeedForward) / (16 << 20))
            : 1;
        var calls = new PartTime(
            "calls",
            layers * tiles * ((recomputes ? 2 : 1) * ForwardCalls + BackwardCalls) * machine.CallSeconds,
            Resource.Calls
        );

        PartTime[] computed =
        [
            projections,
            attending,
            feedForward,
            output,
            again,
            attendingAgain,
            byElement,
            handedOut,
            optimizer,
            calls,
        ];
        PartTime keyValues = Exchange(
            "keys and values",
            [CollectiveUse.KeyValues, CollectiveUse.KeyValueGradients],
            attending.Seconds + attendingAgain.Seconds
        );
        // All but the last bucket travel while backward of the last micro-batch goes on.
        double lastBackward = 2.0 / 3 * (projections.Seconds + feedForward.Seconds + attending.Seconds) / micro;
        PartTime gradients = Exchange("gradients", [CollectiveUse.Parameters, CollectiveUse.Scalars], lastBackward);
        PartTime disk = Offload(run, a, attention, layers, machine, computed.Sum(part => part.Seconds));
        return new StepTime([
            .. computed.Append(keyValues).Append(gradients).Append(disk).Where(part => part.Seconds > 0),
        ]);

        PartTime Products(string name, double times, double share, ProductCost cost)
        {
            double byFlops = cost.Flops / machine.MatrixRate(run.ElementBytes),
                byBytes = cost.Bytes / machine.MemoryBandwidth;
            return new PartTime(
                name,
                times * share * Math.Max(byFlops, byBytes),
                byFlops >= byBytes ? Resource.Compute : Resource.MemoryBandwidth
            );
        }

        PartTime Exchange(string name, CollectiveUse[] uses, double hides)
        {
            double all = 0,
                last = 0;
            foreach (CollectiveCost collective in collectives.Where(collective => uses.Contains(collective.Use)))
            {
                all += NetworkTime.Of(collective, collective.LinkBytes, collective.Calls, machine);
                last +=
                    collective.LastCallLinkBytes > 0 || collective.Use == CollectiveUse.Scalars
                        ? NetworkTime.Of(collective, collective.LastCallLinkBytes, 1, machine)
                        : 0;
            }

            return new PartTime(
                name,
                machine.HidesTransfers ? Math.Max(0, all - last - hides) + last : all,
                Resource.Network
            );
        }
    }

    // Written while the next block computes, read while the one above does.
    private static PartTime Offload(
        PlannedRun run,
        double a,
        AttentionCost attention,
        double layers,
        Machine machine,
        double computing
    )
    {
        MemoryConfig memory = run.Config.Memory;
        if (memory.Offload != Configuration.Offload.Disk || memory.Recompute == Recompute.None)
            return new PartTime("offload", 0, Resource.Disk);
        double bytes =
            memory.Recompute == Recompute.Full
                ? a
                : 2 * a
                    + (double)run.LocalRows * run.Model.Heads * PlannedRun.SingleBytes
                    + attention.Branches.Sum(branch => (double)branch.GatheredElements) * run.ElementBytes;
        double seconds =
            layers
            * bytes
            * (1 / (machine.DiskWrite ?? double.PositiveInfinity) + 1 / (machine.DiskRead ?? double.PositiveInfinity));
        return new PartTime("offload", Math.Max(0, seconds - computing), Resource.Disk);
    }
}

/// <summary>How long collectives take on a machine's links.</summary>
internal static class NetworkTime
{
    /// <param name="collective">Who takes part, and in what.</param>
    /// <param name="linkBytes">Bytes over a rank's link, all calls together.</param>
    /// <param name="calls">How many.</param>
    /// <param name="machine">As each rank has it.</param>
    public static double Of(CollectiveCost collective, double linkBytes, double calls, Machine machine)
    {
        bool within = collective.Ranks <= machine.RanksPerHost;
        double bandwidth =
            within || machine.NetworkBandwidth is null
                ? collective.Use == CollectiveUse.KeyValues
                    ? machine.AllGatherBandwidth
                    : machine.ReduceScatterBandwidth
                : machine.NetworkBandwidth.Value;
        // Trees and pairwise exchanges need so many rounds at least.
        double rounds = Math.Max(1, Math.Ceiling(Math.Log2(collective.Ranks)));
        return calls * rounds * machine.CollectiveLatency + (bandwidth > 0 ? linkBytes / bandwidth : 0);
    }
}
