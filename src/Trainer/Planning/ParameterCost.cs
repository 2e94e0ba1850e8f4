using LongNet.Core.Model;

namespace LongNet.Trainer.Planning;

/// <summary>How many parameters a model has, where they lie.</summary>
/// <param name="PerBlock">Of one transformer block: a bucket of gradients.</param>
/// <param name="Outside">Of embedding, final norm, output projection and relative positions: the last bucket.</param>
/// <param name="Layers">Blocks.</param>
internal sealed record ParameterCost(long PerBlock, long Outside, long Layers)
{
    public long Total => Layers * PerBlock + Outside;

    public static ParameterCost Of(LongNetConfig model)
    {
        long d = model.DModel,
            hidden = model.FeedForward;
        long norms = 2 * (2 * d) + (model.SubLayerNorm ? 2 * d + 2 * hidden : 0);
        return new ParameterCost(
            4 * (d * d + d) + (d * hidden + hidden) + (hidden * d + d) + norms,
            (model.TieEmbeddings ? 1 : 2) * model.Vocabulary * d
                + 2 * d
                + (model.RelativePositionBias is { } buckets ? buckets.Count * model.Heads : 0),
            model.Layers
        );
    }
}
