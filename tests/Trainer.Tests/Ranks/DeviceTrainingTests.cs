using LongNet.TestKit.Ranks;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>
/// Training on a device that is not the CPU: the emulated one, in a process of its own, as some functions of TorchSharp
/// end the process where tensors of two devices meet. The scenario compares it with the CPU, step by step.
/// </summary>
public sealed class DeviceTrainingTests
{
    // The emulated device computes in pieces that grow with the model.
    private static readonly string[] Small =
    [
        "model.layers=1",
        "model.d_model=16",
        "model.heads=2",
        "model.feed_forward=32",
        "model.attention.segment_lengths=[16, 64]",
        "model.attention.dilation_rates=[1, 2]",
        "training.sequence_length=64",
        "training.batch_size=1",
        "evaluation.every_steps=0",
    ];

    [Theory]
    [InlineData("model.positions=rope", "memory.recompute=full", "memory.offload=host", "model.dropout=0.1")]
    [InlineData("memory.recompute=block", "memory.offload=disk", "model.tie_embeddings=false")]
    [InlineData(
        "model.positions=none",
        "model.attention.relative_position_bias=true",
        "model.attention.mixing_gradient=detached",
        "model.sub_layer_norm=true",
        "training.batch_size=2",
        "optimizer.gradient_clipping=0.1"
    )]
    public void Train_OnADevice_GivesTheNumbersOfTheCpu(params string[] settings) => Run(1, settings);

    [Theory]
    [InlineData(2, "parallel.sequence=2")]
    [InlineData(4, "parallel.data=2", "parallel.sequence=2", "parallel.shard_optimizer=true", "training.batch_size=2")]
    public void Train_OnDevicesOfSeveralRanks_GivesTheNumbersOfTheirCpus(int ranks, params string[] settings) =>
        Run(ranks, settings);

    private static void Run(int ranks, string[] settings) =>
        RankTests.RunScenario(MpiKind.Mpich, ranks, "device-training", [.. Small, .. settings]);
}
