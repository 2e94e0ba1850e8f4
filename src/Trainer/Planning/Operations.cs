using LongNet.Core.Model;
using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Planning;

/// <summary>Floating-point operations of one optimizer step over all ranks, by part.</summary>
/// <param name="Projections">Queries, keys, values and merged heads.</param>
/// <param name="Attention">All branches.</param>
/// <param name="FeedForward">Both products of every block.</param>
/// <param name="Output">The output projection. Its gradients are computed in forward, and counted as backward.</param>
internal readonly record struct FlopsByPart(double Projections, double Attention, double FeedForward, double Output)
{
    public double Total => Projections + Attention + FeedForward + Output;
}

/// <summary>What a step computes: forward, backward, and what backward computes again.</summary>
internal sealed record Operations(FlopsByPart Forward, FlopsByPart Backward, FlopsByPart Recomputed)
{
    // A recomputed block projects twice: for the attention's gradients, and again tile by tile for its own.
    private const double ProjectionsAgain = 2;

    public double Total => Forward.Total + Backward.Total + Recomputed.Total;

    /// <summary>How often attention's forward runs again in backward.</summary>
    public static double AttentionAgain(RunShape run) =>
        (run.Config.Memory.Recompute == Recompute.Full ? 1 : 0)
        + (run.Model.MixingGradient == Core.Attention.MixingGradient.Detached ? 1 : 0);

    /// <summary>Products of a block that run again in backward, for one micro-batch of one rank.</summary>
    public static (ProductCost Projections, ProductCost FeedForward) ProductsAgain(RunShape run) =>
        run.Config.Memory.Recompute == Recompute.None
            ? default
            : (ProjectionsAgain * ProductCost.Projections(run) + ProductCost.Mixed(run), ProductCost.FeedForward(run));

    public static Operations Of(RunShape run, AttentionCost attention)
    {
        double everywhere = (double)run.Ranks * run.Batch.MicroSteps,
            blocks = everywhere * run.Model.Layers;
        double pairs = run.Model.Layers * run.Config.Training.BatchSize * attention.Flops;
        var forward = new FlopsByPart(
            blocks * (ProductCost.Projections(run) + ProductCost.Mixed(run)).Flops,
            pairs,
            blocks * ProductCost.FeedForward(run).Flops,
            everywhere * ProductCost.Logits(run).Flops
        );
        var backward = new FlopsByPart(
            ProductCost.BackwardShare * forward.Projections,
            AttentionCost.BackwardShare * pairs,
            ProductCost.BackwardShare * forward.FeedForward,
            ProductCost.BackwardShare * forward.Output
        );
        var (projections, feedForward) = ProductsAgain(run);
        return new Operations(
            forward,
            backward,
            new FlopsByPart(blocks * projections.Flops, AttentionAgain(run) * pairs, blocks * feedForward.Flops, 0)
        );
    }
}
