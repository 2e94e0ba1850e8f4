using LongNet.Core.Model;
using LongNet.Core.Model.Memory;
using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Planning;

/// <summary>
/// What a block's forward and backward have in memory beside all that is kept, at the moments when that is most.
/// </summary>
internal static class BlockPhases
{
    /// <summary>The moments, in bytes.</summary>
    public static IEnumerable<(string Name, double Bytes)> Of(RunShape run, TensorBytes tensors) =>
        run.Recomputes ? Recomputed(run, tensors) : Plain(run, tensors);

    private static IEnumerable<(string Name, double Bytes)> Plain(RunShape run, TensorBytes tensors)
    {
        // Gradients of the residual rows and of the expanded ones, before and after GELU, in place of one that is
        // freed; and of a matrix.
        yield return ("backward of a feed-forward network", tensors.Residual + tensors.Hidden + MatrixGradient(run));
        // The last block's feed-forward network is freed by then: its hidden rows twice, and two tensors of residual
        // rows.
        yield return (
            "backward of attention",
            2 * tensors.Residual + AttentionGradients(tensors) - 2 * tensors.Hidden - 2 * tensors.Residual
        );
    }

    private static IEnumerable<(string Name, double Bytes)> Recomputed(RunShape run, TensorBytes tensors)
    {
        LongNetConfig model = run.Model;
        double residual = tensors.Residual,
            projected = 3 * residual;
        bool full = run.Config.Memory.Recompute == Recompute.Full;
        double tileRows = Math.Min(
            run.LocalTokens,
            run.Config.Memory.TileRows ?? RowTile.DefaultRows(Math.Max(model.DModel, model.FeedForward))
        );
        double share = tileRows / run.LocalTokens,
            roundedWeights = run.IsHalfPrecision ? run.Parameters.PerBlock * run.ElementBytes : 0;
        // Where attention is recomputed its result is not among what is kept.
        double attended = full ? residual + tensors.LogSumExp + tensors.Gathered : 0;
        // A tile of the feed-forward network has six tensors of residual rows, both of hidden rows and the gradient of
        // one.
        double feedForwardTile = share * (6 * residual + 3 * tensors.Hidden) + roundedWeights + MatrixGradient(run);
        // Norm, projections before and after rotation, all three stacked, and their gradients in both types.
        double projectionTile =
            share * (1 + 6 + 3 + 3) * residual + share * 3 * tensors.ResidualFloat32 + roundedWeights;
        yield return (
            "backward of a feed-forward network",
            2 * residual + attended + (full ? projected : 0) + feedForwardTile
        );
        yield return ("backward of attention", 2 * residual + attended + projected + AttentionGradients(tensors));
        yield return ("backward of the projections", residual + 3 * tensors.ResidualFloat32 + projectionTile);
        yield return ("forward of a block", projected + 2 * residual + tensors.LogSumExp + feedForwardTile / 2);
    }

    // Sums in float32 of the gradients of queries, keys and values; and the gradients of gathered keys and values, as
    // they are sent to the ranks that own these, and their sums as those receive them.
    private static double AttentionGradients(TensorBytes tensors) =>
        3 * tensors.ResidualFloat32 + 2 * tensors.GatheredFloat32;

    private static double MatrixGradient(RunShape run) =>
        (double)run.Model.DModel * run.Model.FeedForward * RunShape.Float32Bytes;
}
