using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Core.Model.Memory;
using LongNet.Core.Native;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Planning.Machines;

namespace LongNet.Trainer.Planning;

/// <summary>Peak memory of the rank that takes most, by kind, in bytes.</summary>
/// <param name="Weights">Parameters, float32.</param>
/// <param name="Gradients">Likewise.</param>
/// <param name="Optimizer">Both moments, float32; a share of them where the optimizer is sharded.</param>
/// <param name="Activations">What blocks keep from forward to backward.</param>
/// <param name="Gathered">Keys and values of other ranks that are kept likewise.</param>
/// <param name="Logits">Gradients of the hidden rows and of the output matrix, which the loss makes in forward, and a
/// tile's logits.</param>
/// <param name="Workspace">What the largest temporary peak takes beside what is kept, beyond a tile's logits, which are
/// gone by then.</param>
/// <param name="WorkspacePhase">Where that is.</param>
/// <param name="Positions">Factors of rotation, and the step's tokens.</param>
/// <param name="CheckpointCopy">What is copied to be written while training goes on.</param>
/// <param name="Allocator">Holes between what is in use, which the system's allocator keeps.</param>
/// <param name="Runtime">.NET, libtorch and MPI before the first tensor, and what matrix products take for
/// themselves.</param>
internal sealed record MemoryCost(
    double Weights,
    double Gradients,
    double Optimizer,
    double Activations,
    double Gathered,
    double Logits,
    double Workspace,
    string WorkspacePhase,
    double Positions,
    double CheckpointCopy,
    double Allocator,
    double Runtime
)
{
    // Mean and square.
    private const int Moments = 2;

    // Blocks whose activations are in memory although they wait on the disk: one that is used and one that is on its
    // way.
    private const int BlocksInFlight = 2;

    // Inputs and targets, int64.
    private const int TokenBytes = 2 * sizeof(long);

    // A pair of channels has a complex factor for queries and one for keys, in float32. Making them holds angles,
    // exponents, scales and complex numbers in float64 beside.
    private const int FactorBytes = 2 * 2 * sizeof(float),
        MakingBytes = 9 * sizeof(double);

    // glibc leaves freed memory in the process, and what is kept of one block lies between the next one's temporaries,
    // so that a block finds no room in the last one's. A first step leaves a third of what it needs in holes; then the
    // process grows by MallocTrimPolicy.MostGrowth and part of a step before it gives back. Measured, as a share of
    // what a step needs.
    private const double HolesOfKeptMemory = 1.85;

    // Where blocks are recomputed, memory is given back after each step, and during steps too, if the tensors are
    // large. A step in ten or twenty leaves far more than the others, and the peak is that of the worst. Measured after
    // 40, in tensors [local rows, d_model] per block.
    private const double HolesPerRecomputedBlock = 8.5;

    // What oneMKL packs the matrices of float32 products into.
    private const double PackedBytes = 25 << 20;

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

    public static MemoryCost Of(PlannedRun run, ParameterCost parameters, AttentionCost attention, Machine machine)
    {
        LongNetConfig model = run.Model;
        MemoryConfig memory = run.Config.Memory;
        bool recomputes = memory.Recompute != Recompute.None;
        double single = PlannedRun.SingleBytes,
            rows = run.LocalRows,
            a = run.Activation(model.DModel),
            statistic = rows * model.Heads * single;
        double all = parameters.Total * single,
            moments = Moments * all / (run.Config.Parallel.ShardOptimizer ? run.Ranks : 1);
        double gatheredElements = attention.Branches.Sum(branch => (double)branch.GatheredElements),
            gathered = gatheredElements * run.ElementBytes;

        // What is kept of a block, and of how many blocks.
        double kept = memory.Recompute switch
        {
            Recompute.None => KeptOfPlainBlock(run, statistic),
            Recompute.Block => 2 * a + statistic,
            _ => a,
        };
        double keptBlocks =
            recomputes && memory.Offload == Offload.Disk ? Math.Min(model.Layers, BlocksInFlight) : model.Layers;
        double activations =
            keptBlocks * kept + (recomputes ? 0 : RoundedWeights(run)) + (model.Dropout > 0 && !recomputes ? a : 0);
        double gatheredKept = memory.Recompute == Recompute.Full ? 0 : keptBlocks * gathered;

        // The loss keeps two gradients until backward has them.
        double lossGradients = a + (double)model.Vocabulary * model.DModel * single;
        double lossRows = Math.Min(rows, memory.LossRows ?? ChunkedCrossEntropy.DefaultRows(model.Vocabulary));
        double rounded = run.ElementBytes < PlannedRun.SingleBytes ? model.Vocabulary * run.ElementBytes : 0;
        // The last block's rows, which nothing else keeps, and the tile.
        double lossTile =
            a
            + lossRows
                * (
                    model.DModel * run.ElementBytes
                    + Math.Max(
                        2 * model.Vocabulary * single + rounded,
                        model.Vocabulary * single + rounded + 2 * model.DModel * run.ElementBytes
                    )
                );

        double pairs = model.Positions == PositionEncoding.None ? 0 : run.Rows * (model.DModel / model.Heads / 2.0);
        double tokens = run.Rows * run.Batch.MicroSteps * run.Batch.MicroBatchSize * (double)TokenBytes;
        double factors = pairs * FactorBytes,
            before = activations + gatheredKept + lossGradients + lossTile;
        // The loss's tile is gone in all other phases. When the factors are made, nothing is kept yet.
        var (phase, workspace) = Phases(run, parameters, a, statistic, gatheredElements, gathered)
            .Select(each => (each.Phase, each.Bytes - lossTile))
            .Append(("making rotation factors", pairs * MakingBytes - before))
            .Append(("loss", 0.0))
            .MaxBy(each => each.Item2);
        // On devices the copy lies in the host's memory.
        bool copies =
            machine.Processors is not null
            && run.Config.Checkpoint is { Asynchronous: true } and ({ EverySteps: > 0 } or { EveryMinutes: > 0 });
        return new MemoryCost(
            all,
            all,
            moments,
            activations,
            gatheredKept,
            lossGradients + lossTile,
            workspace,
            phase,
            factors + tokens,
            copies ? all + moments : 0,
            Holes(),
            machine.RuntimeBytes
                + (machine.Processors is not null && run.ElementBytes == PlannedRun.SingleBytes ? PackedBytes : 0)
        );

        double Holes()
        {
            bool givesBack = recomputes && run.Config.Runtime.Allocator == AllocatorSetting.Tuned;
            if (!machine.KeepsHoles || (givesBack && a >= MemoryAllocator.LongSequenceTensor))
                return 0;
            return givesBack
                ? model.Layers * a * HolesPerRecomputedBlock
                : HolesOfKeptMemory * (activations + gatheredKept + lossGradients + lossTile + workspace);
        }
    }

    // What is in memory beside all that is kept, at the moments when that is most.
    private static IEnumerable<(string Phase, double Bytes)> Phases(
        PlannedRun run,
        ParameterCost parameters,
        double a,
        double statistic,
        double gatheredElements,
        double gathered
    )
    {
        LongNetConfig model = run.Model;
        double single = PlannedRun.SingleBytes,
            hidden = run.Activation(model.FeedForward);
        // Sums in float32 of the gradients of queries, keys and values, and those that are sent home and come back.
        double sums = 3 * run.LocalRows * model.DModel * single + 2 * gatheredElements * single;
        if (run.Config.Memory.Recompute == Recompute.None)
        {
            // Gradients of the residual rows and of the expanded ones, before and after GELU, in place of one that is
            // freed; and of a matrix.
            yield return ("backward of a feed-forward network", a + hidden + model.DModel * model.FeedForward * single);
            // The last block's feed-forward network is freed by then: its hidden rows twice, and two tensors of
            // residual rows.
            yield return ("backward of attention", 2 * a + sums - 2 * hidden - 2 * a);
            yield break;
        }

        bool full = run.Config.Memory.Recompute == Recompute.Full;
        double tileRows = Math.Min(
            run.LocalRows,
            run.Config.Memory.TileRows ?? RowTile.DefaultRows(Math.Max(model.DModel, model.FeedForward))
        );
        double share = tileRows / run.LocalRows;
        double weights = run.ElementBytes < PlannedRun.SingleBytes ? parameters.PerBlock * run.ElementBytes : 0;
        // Recomputed attention: its result is not among what is kept.
        double attended = full ? a + statistic + gathered : 0,
            projected = 3 * a;
        // A tile holds six tensors of residual rows, both of hidden rows and the gradient of one.
        double finishTile = share * (6 * a + 3 * hidden) + weights + model.DModel * model.FeedForward * single;
        // Norm, projections before and after rotation, all three stacked, and their gradients in both types.
        double projectTile = share * (1 + 6 + 3 + 3) * a + share * 3 * run.LocalRows * model.DModel * single + weights;
        yield return ("backward of a feed-forward network", 2 * a + attended + (full ? projected : 0) + finishTile);
        yield return ("backward of attention", 2 * a + attended + projected + sums);
        yield return ("backward of the projections", a + 3 * run.LocalRows * model.DModel * single + projectTile);
        yield return ("forward of a block", projected + 2 * a + statistic + finishTile / 2);
    }

    // Without recomputation autograd keeps per block: the input, both norms' results and statistics, rotated queries
    // and keys, values, the attended rows and their log-sum-exp, the first residual sum, and the hidden rows before and
    // after GELU.
    private static double KeptOfPlainBlock(PlannedRun run, double statistic)
    {
        LongNetConfig model = run.Model;
        double a = run.Activation(model.DModel),
            hidden = run.Activation(model.FeedForward),
            ofNorm = 2.0 * run.LocalRows * PlannedRun.SingleBytes;
        double kept = 8 * a + 2 * hidden + statistic + 2 * ofNorm;
        // Masks of both, and the attended rows that are left.
        if (model.Dropout > 0)
            kept += 3 * a;
        if (model.SubLayerNorm)
            kept += a + hidden + 2 * ofNorm;
        return kept;
    }

    // In 16 bits autograd keeps the rounded matrices that it multiplied with.
    private static double RoundedWeights(PlannedRun run) =>
        run.ElementBytes == PlannedRun.SingleBytes
            ? 0
            : run.Model.Layers
                * (4.0 * run.Model.DModel * run.Model.DModel + 2.0 * run.Model.DModel * run.Model.FeedForward)
                * run.ElementBytes;
}
