using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Planning.Machines;
using LongNet.Trainer.Shape;

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
    // derivatives and the additions to gradients. Each tile of a recomputed block starts all of them again.
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

    // The calls of a recomputed block are counted once per so many elements of its widest tensor.
    private const double TileElements = 16 << 20;

    public double Seconds => Parts.Sum(part => part.Seconds);

    /// <summary>The resource that takes most of the step.</summary>
    public Resource Bound => Parts.GroupBy(part => part.Bound).MaxBy(group => group.Sum(part => part.Seconds))!.Key;

    /// <summary>Predicts a step's time on the slowest rank.</summary>
    /// <param name="run">The run's shape.</param>
    /// <param name="attention">What its attention comes to.</param>
    /// <param name="collectives">What its ranks exchange.</param>
    /// <param name="memory">What a rank has in memory.</param>
    /// <param name="machine">As each of the ranks has it.</param>
    public static StepTime Of(
        RunShape run,
        AttentionCost attention,
        IReadOnlyList<CollectiveCost> collectives,
        MemoryCost memory,
        Machine machine
    )
    {
        var tensors = TensorBytes.Of(run, attention);
        PartTime projections = Projections(run, machine),
            attending = Attention(run, attention, machine),
            feedForward = FeedForward(run, machine),
            attendingAgain = AttentionAgain(run, attention, machine);
        PartTime[] computed =
        [
            projections,
            attending,
            feedForward,
            Output(run, machine),
            ProductsAgain(run, machine),
            attendingAgain,
            ByElement(run, attention, tensors, machine),
            FreshMemory(run, memory, machine),
            Optimizer(run, machine),
            Calls(run, machine),
        ];
        PartTime keyValues = Exchange(
            "keys and values",
            collectives.Where(each => each.Use is CollectiveUse.KeyValues or CollectiveUse.KeyValueGradients),
            attending.Seconds + attendingAgain.Seconds,
            machine
        );
        // All but the last bucket are reduced while backward of the last micro-batch continues.
        double lastBackward =
            2.0 / 3 * (projections.Seconds + feedForward.Seconds + attending.Seconds) / run.Batch.MicroSteps;
        PartTime gradients = Exchange(
            "gradients",
            collectives.Where(each => each.Use is CollectiveUse.Parameters or CollectiveUse.Scalars),
            lastBackward,
            machine
        );
        PartTime disk = Offload(run, tensors, machine, computed.Sum(part => part.Seconds));
        return new StepTime([
            .. computed.Append(keyValues).Append(gradients).Append(disk).Where(part => part.Seconds > 0),
        ]);
    }

    // Blocks of all micro-batches.
    private static double BlocksPerStep(RunShape run) => run.Model.Layers * (double)run.Batch.MicroSteps;

    private static PartTime Projections(RunShape run, Machine machine) =>
        Products(
            "projections",
            BlocksPerStep(run) * (1 + ProductCost.BackwardShare),
            ProductCost.Projections(run) + ProductCost.Mixed(run),
            run,
            machine
        );

    private static PartTime FeedForward(RunShape run, Machine machine) =>
        Products(
            "feed-forward",
            BlocksPerStep(run) * (1 + ProductCost.BackwardShare),
            ProductCost.FeedForward(run),
            run,
            machine
        );

    private static PartTime Output(RunShape run, Machine machine) =>
        Products(
            "output projection",
            run.Batch.MicroSteps * (1 + ProductCost.BackwardShare),
            ProductCost.Logits(run),
            run,
            machine
        );

    private static PartTime ProductsAgain(RunShape run, Machine machine)
    {
        var (projections, feedForward) = Operations.ProductsAgain(run);
        return Products("recomputed products", BlocksPerStep(run), projections + feedForward, run, machine);
    }

    private static PartTime Products(string name, double times, ProductCost cost, RunShape run, Machine machine)
    {
        double byFlops = cost.Flops / machine.MatrixRate(run.ElementBytes),
            byBytes = cost.Bytes / machine.MemoryBandwidth;
        return new PartTime(
            name,
            times * Math.Max(byFlops, byBytes),
            byFlops >= byBytes ? Resource.Compute : Resource.MemoryBandwidth
        );
    }

    private static PartTime Attention(RunShape run, AttentionCost attention, Machine machine) =>
        new(
            "attention",
            ForwardAttention(run, attention, machine) * (1 + AttentionCost.BackwardShare),
            Resource.Compute
        );

    private static PartTime AttentionAgain(RunShape run, AttentionCost attention, Machine machine) =>
        new(
            "recomputed attention",
            ForwardAttention(run, attention, machine) * Operations.AttentionAgain(run),
            Resource.Compute
        );

    private static double ForwardAttention(RunShape run, AttentionCost attention, Machine machine) =>
        BlocksPerStep(run)
        * (run.Batch.MicroBatchSize * attention.SlowestFlops / machine.AttentionRate(run.ElementBytes));

    private static PartTime ByElement(RunShape run, AttentionCost attention, TensorBytes tensors, Machine machine)
    {
        LongNetConfig model = run.Model;
        double kept =
            attention.Branches.Sum(branch => branch.KeptRows)
            * run.Batch.MicroBatchSize
            * (model.DModel / model.Heads)
            * RunShape.Float32Bytes;
        double conversions = run.IsHalfPrecision ? RotationPasses * (tensors.ResidualFloat32 + tensors.Residual) : 0,
            rotation = model.Positions == PositionEncoding.None
                ? 0
                : RotationPasses * tensors.ResidualFloat32 + conversions;
        // libtorch's element-wise operators on CPUs work in float32 whatever the type, and that takes longer than the
        // memory does.
        double residual = machine.HasGpus ? tensors.Residual : tensors.ResidualFloat32,
            hidden = machine.HasGpus ? tensors.Hidden : tensors.Hidden * RunShape.Float32Bytes / run.ElementBytes;
        double forward = ForwardPasses * residual + rotation + HiddenForwardPasses * hidden + MixingPasses * kept,
            backward =
                BackwardPasses * residual
                + rotation
                + HiddenBackwardPasses * hidden
                + 3 * tensors.ResidualFloat32
                + GradientMixingPasses * kept;
        double ofBlock =
                forward * (run.Recomputes ? 2 : 1) + backward + (run.Recomputes ? TilePasses * tensors.Residual : 0),
            ofLoss = LogitPasses * run.LocalTokens * model.Vocabulary * RunShape.Float32Bytes + 4 * tensors.Residual;
        double bytes = BlocksPerStep(run) * ofBlock + run.Batch.MicroSteps * ofLoss;
        return new PartTime("work by element", bytes / machine.MemoryBandwidth, Resource.MemoryBandwidth);
    }

    private static PartTime Optimizer(RunShape run, Machine machine)
    {
        double updated = run.Parameters.Total / (double)(run.Config.Parallel.ShardOptimizer ? run.Ranks : 1),
            elements = UpdatePasses * updated + GradientPasses * run.Parameters.Total;
        return new PartTime(
            "optimizer",
            elements * RunShape.Float32Bytes / machine.MemoryBandwidth,
            Resource.MemoryBandwidth
        );
    }

    // What is returned to the system after each step is paged in again in the next.
    private static PartTime FreshMemory(RunShape run, MemoryCost memory, Machine machine)
    {
        double bytes =
            run.Recomputes && machine.KeepsHoles && run.Config.Runtime.Allocator == AllocatorSetting.Tuned
                ? memory.Activations + memory.Gathered + memory.Logits + memory.Workspace + memory.Allocator
                : 0;
        return new PartTime(
            "fresh memory",
            bytes / (machine.FirstTouch ?? double.PositiveInfinity),
            Resource.MemoryBandwidth
        );
    }

    private static PartTime Calls(RunShape run, Machine machine)
    {
        double tiles = run.Recomputes
            ? Math.Max(1, run.LocalTokens * (double)Math.Max(run.Model.DModel, run.Model.FeedForward) / TileElements)
            : 1;
        double ofBlock = (run.Recomputes ? 2 : 1) * ForwardCalls + BackwardCalls;
        return new PartTime("calls", BlocksPerStep(run) * tiles * ofBlock * machine.CallSeconds, Resource.Calls);
    }

    private static PartTime Exchange(
        string name,
        IEnumerable<CollectiveCost> collectives,
        double hiddenSeconds,
        Machine machine
    )
    {
        double all = 0,
            last = 0;
        foreach (CollectiveCost collective in collectives)
        {
            all += NetworkTime.Of(collective, collective.LinkBytes, collective.Calls, machine);
            last +=
                collective.LastCallLinkBytes > 0 || collective.Use == CollectiveUse.Scalars
                    ? NetworkTime.Of(collective, collective.LastCallLinkBytes, 1, machine)
                    : 0;
        }

        return new PartTime(
            name,
            machine.HidesTransfers ? Math.Max(0, all - last - hiddenSeconds) + last : all,
            Resource.Network
        );
    }

    // Written while the next block computes, read while the one above does.
    private static PartTime Offload(RunShape run, TensorBytes tensors, Machine machine, double computing)
    {
        MemoryConfig memory = run.Config.Memory;
        if (memory.Offload != Configuration.Offload.Disk || !run.Recomputes)
            return new PartTime("offload", 0, Resource.Disk);
        double bytes =
            memory.Recompute == Recompute.Full
                ? tensors.Residual
                : 2 * tensors.Residual + tensors.LogSumExp + tensors.Gathered;
        double seconds =
            BlocksPerStep(run)
            * bytes
            * (1 / (machine.DiskWrite ?? double.PositiveInfinity) + 1 / (machine.DiskRead ?? double.PositiveInfinity));
        return new PartTime("offload", Math.Max(0, seconds - computing), Resource.Disk);
    }
}
