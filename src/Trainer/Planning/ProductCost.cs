using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Planning;

/// <summary>
/// Matrix products of one rank over the rows of one micro-batch: operations, and bytes that must at least move.
/// </summary>
/// <param name="Flops">Floating-point operations.</param>
/// <param name="Bytes">Operands read and results written once.</param>
internal readonly record struct ProductCost(double Flops, double Bytes)
{
    public static ProductCost operator +(ProductCost left, ProductCost right) =>
        new(left.Flops + right.Flops, left.Bytes + right.Bytes);

    public static ProductCost operator *(double times, ProductCost cost) => new(times * cost.Flops, times * cost.Bytes);

    /// <summary>Rows times a matrix.</summary>
    public static ProductCost Of(RunShape run, double inputs, double outputs) =>
        new(
            2.0 * run.LocalTokens * inputs * outputs,
            run.ActivationBytes(inputs) + run.ActivationBytes(outputs) + inputs * outputs * run.ElementBytes
        );

    /// <summary>Queries, keys and values of a block.</summary>
    public static ProductCost Projections(RunShape run) => 3 * Of(run, run.Model.DModel, run.Model.DModel);

    /// <summary>The projection of the merged heads.</summary>
    public static ProductCost Mixed(RunShape run) => Of(run, run.Model.DModel, run.Model.DModel);

    /// <summary>Both products of the feed-forward network.</summary>
    public static ProductCost FeedForward(RunShape run) =>
        Of(run, run.Model.DModel, run.Model.FeedForward) + Of(run, run.Model.FeedForward, run.Model.DModel);

    /// <summary>The output projection.</summary>
    public static ProductCost Logits(RunShape run) => Of(run, run.Model.DModel, run.Model.Vocabulary);

    /// <summary>Backward has a product for the inputs' gradient and one for the weights'.</summary>
    public const double BackwardShare = 2;
}
