using LongNet.TestKit.Ranks;

namespace LongNet.Distributed.Tests.Collectives;

/// <summary>
/// Tensors of a device that travel through host memory: the contract of process groups, and what N ranks compute with
/// it equals one rank's. On a GPU, which ranks share, where there is one; else on the emulated device. The assertions
/// are in the rank worker's scenarios, on every rank.
/// </summary>
public class StagedTransportTests
{
    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 2)]
    [InlineData(MpiKind.OpenMpi, 4, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.Mpich, 1, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.Mpich, 2, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.Mpich, 4)]
    public void Collectives_OfADevicesTensors_KeepTheContract(MpiKind kind, int ranks) =>
        RankTests.RunScenario(kind, ranks, "process-group-staged");

    [Theory]
    [InlineData(MpiKind.OpenMpi, 2)]
    [InlineData(MpiKind.Mpich, 3, Traits = ["Category", "slow"])]
    public void ShardedStep_OnADevice_EqualsTheUnsharded(MpiKind kind, int ranks) =>
        RankTests.RunScenario(kind, ranks, "sharded-optimizer", "--device");

    [Theory]
    [InlineData(MpiKind.OpenMpi, 2)]
    [InlineData(MpiKind.Mpich, 4, Traits = ["Category", "slow"])]
    public void Attention_OnADevice_EqualsOneRank(MpiKind kind, int ranks) =>
        RankTests.RunScenario(kind, ranks, "sequence-attention", "--device");

    [Theory]
    [InlineData(MpiKind.OpenMpi, 1, 2)]
    [InlineData(MpiKind.Mpich, 2, 2, Traits = ["Category", "slow"])]
    public void EveryParametersGradient_OnADevice_EqualsOneRanks(MpiKind kind, int data, int sequence) =>
        RankTests.RunScenario(kind, data * sequence, "model-gradients", $"{data}", $"{sequence}", "--device");
}
