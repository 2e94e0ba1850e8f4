using LongNet.Core.Model;

namespace LongNet.Trainer.Shape;

/// <summary>How many parameters a model has, by the bucket that their gradients lie in.</summary>
/// <param name="PerBlock">Of one transformer block: a bucket.</param>
/// <param name="Outside">Of embedding, final norm, output projection and relative positions: the last bucket.</param>
/// <param name="Blocks">Transformer blocks.</param>
internal sealed record ParameterCounts(long PerBlock, long Outside, long Blocks)
{
    public long Total => Blocks * PerBlock + Outside;

    public static ParameterCounts Of(LongNetConfig model)
    {
        long channels = model.DModel,
            hidden = model.FeedForward;
        long norms = 2 * (2 * channels) + (model.SubLayerNorm ? 2 * channels + 2 * hidden : 0);
        long attention = 4 * (channels * channels + channels),
            feedForward = channels * hidden + hidden + (hidden * channels + channels);
        long embeddings = (model.TieEmbeddings ? 1 : 2) * model.Vocabulary * channels,
            relativePositions = model.RelativePositionBias is { } buckets ? buckets.Count * model.Heads : 0;
        return new ParameterCounts(
            attention + feedForward + norms,
            embeddings + 2 * channels + relativePositions,
            model.Layers
        );
    }
}
