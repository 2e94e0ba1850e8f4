using LongNet.Core.Attention;
using LongNet.Core.Native;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Planning.Machines;
using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Planning;

/// <summary>Peak memory of the rank that needs most, by kind, in bytes.</summary>
internal sealed record MemoryCost
{
    // Mean and square.
    private const int Moments = 2;

    // Inputs and targets, int64.
    private const int TokenBytes = 2 * sizeof(long);

    // A pair of channels has a complex factor for queries and one for keys, in float32. Making them takes angles,
    // exponents, scales and complex numbers in float64 beside.
    private const int FactorBytes = 2 * 2 * sizeof(float),
        MakingFactorsBytes = 9 * sizeof(double);

    // glibc leaves freed memory in the process, and what is kept of one block lies between the next one's temporaries,
    // so that a block finds no room in the last one's. A first step leaves a third of what it needs in holes; then the
    // process grows by MallocTrimPolicy.MostGrowth and part of a step before it returns memory. Measured, as a share of
    // what a step needs.
    private const double HolesOfKeptMemory = 1.85;

    // Where blocks are recomputed, memory is returned after each step, and during steps too, if the tensors are large.
    // A step in ten or twenty leaves far more than the others, and the peak is that of the worst. Measured after 40, in
    // tensors [local rows, d_model] per block.
    private const double HolesPerRecomputedBlock = 8.5;

    // What oneMKL packs the matrices of float32 products into.
    private const double PackedBytes = 25 << 20;

    /// <summary>Parameters, float32.</summary>
    public required double Weights { get; init; }

    /// <summary>Gradients of parameters, float32.</summary>
    public required double Gradients { get; init; }

    /// <summary>Both moments, float32; a share of them where the optimizer is sharded.</summary>
    public required double Optimizer { get; init; }

    /// <summary>What blocks keep from forward to backward.</summary>
    public required double Activations { get; init; }

    /// <summary>Keys and values of other ranks that are kept likewise.</summary>
    public required double Gathered { get; init; }

    /// <summary>
    /// Gradients of the hidden rows and of the output matrix, which the loss makes in forward, and a tile's logits.
    /// </summary>
    public required double Logits { get; init; }

    /// <summary>
    /// What the largest temporary peak takes beside what is kept, beyond a tile's logits, which are freed by then.
    /// </summary>
    public required double Workspace { get; init; }

    /// <summary>What the rank does at that peak.</summary>
    public required string WorkspacePhase { get; init; }

    /// <summary>Factors of rotation, and the step's tokens.</summary>
    public required double Positions { get; init; }

    /// <summary>What is copied to be written while training continues.</summary>
    public required double CheckpointCopy { get; init; }

    /// <summary>Holes between what is in use, which the system's allocator keeps.</summary>
    public required double Allocator { get; init; }

    /// <summary>
    /// .NET, libtorch and MPI before the first tensor, and what matrix products take for themselves.
    /// </summary>
    public required double Runtime { get; init; }

    public double Total =>
        Weights
        + Gradients
        + Optimizer
        + Activations
        + Gathered
        + Logits
        + Workspace
        + Positions
        + CheckpointCopy
        + Allocator
        + Runtime;

    /// <summary>Predicts the peak of a run.</summary>
    /// <param name="run">The run's shape.</param>
    /// <param name="attention">What its attention comes to.</param>
    /// <param name="machine">As each of the ranks has it.</param>
    public static MemoryCost Of(RunShape run, AttentionCost attention, Machine machine)
    {
        double weights = run.Parameters.Total * (double)RunShape.Float32Bytes,
            moments = Moments * weights / (run.Config.Parallel.ShardOptimizer ? run.Ranks : 1);
        var tensors = TensorBytes.Of(run, attention);
        KeptMemory kept = KeptMemory.Of(run, tensors);
        var (phase, workspace) = LargestPhase(run, tensors, kept);
        return new MemoryCost
        {
            Weights = weights,
            Gradients = weights,
            Optimizer = moments,
            Activations = kept.Activations,
            Gathered = kept.Gathered,
            Logits = kept.Logits,
            Workspace = workspace,
            WorkspacePhase = phase,
            Positions = RotatedPairs(run) * FactorBytes + StepTokens(run),
            CheckpointCopy = CopiesCheckpoints(run, machine) ? weights + moments : 0,
            Allocator = Holes(run, machine, tensors.Residual, kept.Total + workspace),
            Runtime = machine.RuntimeBytes + (machine.HasGpus || run.IsHalfPrecision ? 0 : PackedBytes),
        };
    }

    // The phase whose temporaries take most beside what is kept; a tile's logits are freed in all phases but the loss.
    private static (string Phase, double Bytes) LargestPhase(RunShape run, TensorBytes tensors, KeptMemory kept) =>
        BlockPhases
            .Of(run, tensors)
            .Select(phase => (phase.Name, Bytes: phase.Bytes - kept.LossTile))
            // Nothing is kept yet when the factors are made.
            .Append((Name: "making rotation factors", Bytes: RotatedPairs(run) * MakingFactorsBytes - kept.Total))
            .Append((Name: "loss", Bytes: 0.0))
            .MaxBy(phase => phase.Bytes);

    // Pairs of channels that are rotated, over a rank's rows.
    private static double RotatedPairs(RunShape run) =>
        run.Model.Positions == PositionEncoding.None
            ? 0
            : run.TokensPerRank * (run.Model.DModel / run.Model.Heads / 2.0);

    private static double StepTokens(RunShape run) =>
        run.TokensPerRank * run.Batch.MicroSteps * run.Batch.MicroBatchSize * (double)TokenBytes;

    // The copy of a GPU's tensors lies in the host's memory.
    private static bool CopiesCheckpoints(RunShape run, Machine machine) =>
        !machine.HasGpus
        && run.Config.Checkpoint is { Asynchronous: true } and ({ EverySteps: > 0 } or { EveryMinutes: > 0 });

    private static double Holes(RunShape run, Machine machine, double residual, double stepBytes)
    {
        bool trims = run.Recomputes && run.Config.Runtime.Allocator == AllocatorSetting.Tuned;
        if (!machine.KeepsHoles || (trims && residual >= MemoryAllocator.LongSequenceTensor))
            return 0;
        return trims ? run.Model.Layers * residual * HolesPerRecomputedBlock : HolesOfKeptMemory * stepBytes;
    }
}

/// <summary>Sizes, in bytes, of the tensors that a rank works on for one micro-batch.</summary>
internal sealed record TensorBytes
{
    /// <summary>[local rows, d_model], of the compute type.</summary>
    public required double Residual { get; init; }

    /// <summary>[local rows, d_model], float32.</summary>
    public required double ResidualFloat32 { get; init; }

    /// <summary>[local rows, feed-forward], of the compute type.</summary>
    public required double Hidden { get; init; }

    /// <summary>Log-sum-exp: [local rows, heads], float32.</summary>
    public required double LogSumExp { get; init; }

    /// <summary>Mean and deviation of a norm: [local rows, 2], float32.</summary>
    public required double NormStatistics { get; init; }

    /// <summary>Keys and values that all branches of a layer gather, of the compute type.</summary>
    public required double Gathered { get; init; }

    /// <summary>As many elements in float32.</summary>
    public required double GatheredFloat32 { get; init; }

    public static TensorBytes Of(RunShape run, AttentionCost attention)
    {
        double gatheredElements = attention.Branches.Sum(branch => (double)branch.GatheredElements);
        return new TensorBytes
        {
            Residual = run.ActivationBytes(run.Model.DModel),
            ResidualFloat32 = run.LocalTokens * run.Model.DModel * (double)RunShape.Float32Bytes,
            Hidden = run.ActivationBytes(run.Model.FeedForward),
            LogSumExp = (double)run.LocalTokens * run.Model.Heads * RunShape.Float32Bytes,
            NormStatistics = 2.0 * run.LocalTokens * RunShape.Float32Bytes,
            Gathered = gatheredElements * run.ElementBytes,
            GatheredFloat32 = gatheredElements * RunShape.Float32Bytes,
        };
    }
}
