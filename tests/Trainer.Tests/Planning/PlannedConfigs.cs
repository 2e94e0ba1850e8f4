using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Trainer.Configuration;

namespace LongNet.Trainer.Tests.Planning;

/// <summary>Configurations small enough to count by hand.</summary>
internal static class PlannedConfigs
{
    /// <summary>One block of eight channels in two heads over eight rows, with two branches.</summary>
    public static RunConfig Small { get; } =
        new()
        {
            Name = "small",
            Model = new ModelConfig
            {
                Layers = 1,
                DModel = 8,
                Heads = 2,
                FeedForward = 16,
                Attention = new AttentionConfig { SegmentLengths = [4, 8], DilationRates = [1, 2] },
                Positions = PositionEncoding.None,
            },
            Data = new DataConfig { Path = ["nowhere"] },
            Optimizer = new OptimizerConfig
            {
                Lr = 1e-3,
                MinLr = 1e-4,
                DecaySteps = 10,
            },
            Training = new TrainingConfig { Steps = 10, SequenceLength = 8 },
        };

    public static RunConfig With(this RunConfig config, Recompute recompute) =>
        config with
        {
            Memory = config.Memory with { Recompute = recompute },
        };
}
