using LongNet.TestKit.Ranks;

namespace LongNet.Distributed.Tests.DataParallel;

/// <summary>
/// The sharded step equals the unsharded one. The assertions are in the rank worker's scenario, on every rank.
/// </summary>
public class ShardedOptimizerTests
{
    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 2)]
    [InlineData(MpiKind.OpenMpi, 3)]
    [InlineData(MpiKind.OpenMpi, 4)]
    [InlineData(MpiKind.Mpich, 2)]
    [InlineData(MpiKind.Mpich, 3)]
    public void Step_OnAnyNumberOfRanks_EqualsTheUnshardedWithTheStateDivided(MpiKind kind, int ranks) =>
        RankTests.RunScenario(kind, ranks, "sharded-optimizer");
}
