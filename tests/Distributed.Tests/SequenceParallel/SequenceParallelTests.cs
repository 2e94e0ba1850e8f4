using LongNet.TestKit.Ranks;

namespace LongNet.Distributed.Tests.SequenceParallel;

/// <summary>N ranks compute what one does. The assertions are in the rank worker's scenarios, on every rank.</summary>
public class SequenceParallelTests
{
    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 2, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.OpenMpi, 3, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.OpenMpi, 4, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.OpenMpi, 5)]
    [InlineData(MpiKind.Mpich, 2)]
    [InlineData(MpiKind.Mpich, 4)]
    public void Attention_OnAnyNumberOfRanks_EqualsOneRankAndSendsWhatTheFormulaSays(MpiKind kind, int ranks) =>
        RankTests.RunScenario(kind, ranks, "sequence-attention");

    [Theory]
    [InlineData(MpiKind.None, 1, 1)]
    [InlineData(MpiKind.OpenMpi, 1, 2, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.OpenMpi, 2, 1, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.OpenMpi, 1, 4)]
    [InlineData(MpiKind.OpenMpi, 2, 2, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.OpenMpi, 4, 1, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.Mpich, 1, 2, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.Mpich, 2, 2)]
    public void EveryParametersGradient_OnAnyMesh_EqualsOneRanks(MpiKind kind, int data, int sequence) =>
        RankTests.RunScenario(kind, data * sequence, "model-gradients", $"{data}", $"{sequence}");

    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 4)]
    public void ReadmeExample_Runs(MpiKind kind, int ranks) => RankTests.RunScenario(kind, ranks, "readme");
}
