using LongNet.TestKit.Ranks;

namespace LongNet.Distributed.Tests.Collectives;

/// <summary>One contract, every backend. The assertions are in the rank worker's scenario, on every rank.</summary>
public class ProcessGroupTests
{
    // Three ranks for uneven parts, four for groups that are no whole.
    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 1)]
    [InlineData(MpiKind.OpenMpi, 2)]
    [InlineData(MpiKind.OpenMpi, 3, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.OpenMpi, 4, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.Mpich, 1)]
    [InlineData(MpiKind.Mpich, 2)]
    [InlineData(MpiKind.Mpich, 3, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.Mpich, 4)]
    public void Collectives_EveryTypeAndLength_KeepTheContract(MpiKind kind, int ranks) =>
        RankTests.RunScenario(kind, ranks, "process-group");

    [Theory]
    [InlineData(MpiKind.OpenMpi, 3)]
    [InlineData(MpiKind.OpenMpi, 4, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.Mpich, 2)]
    public void Collectives_InManyMessages_KeepTheContract(MpiKind kind, int ranks) =>
        RankTests.RunScenario(kind, ranks, "process-group", "--small-messages");

    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 3)]
    [InlineData(MpiKind.Mpich, 2)]
    public void RankConsensus_MistakeOfSome_IsThrownByAll(MpiKind kind, int ranks) =>
        RankTests.RunScenario(kind, ranks, "rank-consensus");
}
