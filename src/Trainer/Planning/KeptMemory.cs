using LongNet.Core.Model;
using LongNet.Core.Model.Memory;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Planning;

/// <summary>What is in memory from forward to backward, in bytes.</summary>
/// <param name="Activations">What blocks keep.</param>
/// <param name="Gathered">Keys and values of other ranks that blocks keep.</param>
/// <param name="LossGradients">Gradients of the hidden rows and of the output matrix, until backward has them.</param>
/// <param name="LossTile">The last block's rows and a tile of logits, until the loss is computed.</param>
internal readonly record struct KeptMemory(double Activations, double Gathered, double LossGradients, double LossTile)
{
    // Blocks whose activations are in memory although they are offloaded to disk: one that is used and one that is on
    // its way.
    private const int BlocksInFlight = 2;

    /// <summary>What the loss makes.</summary>
    public double Logits => LossGradients + LossTile;

    public double Total => Activations + Gathered + LossGradients + LossTile;

    public static KeptMemory Of(RunShape run, TensorBytes tensors)
    {
        LongNetConfig model = run.Model;
        MemoryConfig memory = run.Config.Memory;
        double ofBlock = memory.Recompute switch
        {
            Recompute.None => OfPlainBlock(model, tensors),
            Recompute.Block => 2 * tensors.Residual + tensors.LogSumExp,
            _ => tensors.Residual,
        };
        double blocks =
            run.Recomputes && memory.Offload == Offload.Disk ? Math.Min(model.Layers, BlocksInFlight) : model.Layers;
        double embeddingMask = model.Dropout > 0 && !run.Recomputes ? tensors.Residual : 0;
        return new KeptMemory(
            blocks * ofBlock + (run.Recomputes ? 0 : RoundedWeights(run)) + embeddingMask,
            memory.Recompute == Recompute.Full ? 0 : blocks * tensors.Gathered,
            tensors.Residual + (double)model.Vocabulary * model.DModel * RunShape.Float32Bytes,
            OfLossTile(run, tensors)
        );
    }

    // Without recomputation autograd keeps per block: the input, both norms' results and statistics, rotated queries
    // and keys, values, the attended rows and their log-sum-exp, the first residual sum, and the hidden rows before and
    // after GELU.
    private static double OfPlainBlock(LongNetConfig model, TensorBytes tensors)
    {
        double kept = 8 * tensors.Residual + 2 * tensors.Hidden + tensors.LogSumExp + 2 * tensors.NormStatistics;
        // Masks of both, and the attended rows that are left.
        if (model.Dropout > 0)
            kept += 3 * tensors.Residual;
        if (model.SubLayerNorm)
            kept += tensors.Residual + tensors.Hidden + 2 * tensors.NormStatistics;
        return kept;
    }

    // In 16 bits autograd keeps the rounded matrices that it multiplied with.
    private static double RoundedWeights(RunShape run) =>
        run.IsHalfPrecision
            ? run.Model.Layers
                * (4.0 * run.Model.DModel * run.Model.DModel + 2.0 * run.Model.DModel * run.Model.FeedForward)
                * run.ElementBytes
            : 0;

    // The last block's rows, which nothing else keeps; and of a tile its rows with the larger of two moments: logits
    // with their gradient, or that gradient with those of the rows.
    private static double OfLossTile(RunShape run, TensorBytes tensors)
    {
        LongNetConfig model = run.Model;
        double rows = Math.Min(
            run.LocalTokens,
            run.Config.Memory.LossRows ?? ChunkedCrossEntropy.DefaultRows(model.Vocabulary)
        );
        double logits = model.Vocabulary * (double)RunShape.Float32Bytes,
            rounded = run.IsHalfPrecision ? model.Vocabulary * run.ElementBytes : 0,
            hidden = model.DModel * run.ElementBytes;
        return tensors.Residual + rows * (hidden + Math.Max(2 * logits + rounded, logits + rounded + 2 * hidden));
    }
}
