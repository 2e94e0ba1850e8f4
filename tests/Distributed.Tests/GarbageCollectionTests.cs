using LongNet.TestKit.Ranks;

namespace LongNet.Distributed.Tests;

/// <summary>
/// Tensors live exactly as long as they are needed. The assertions are in the rank worker's scenario.
/// </summary>
public class GarbageCollectionTests
{
    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 2, Traits = ["Category", "slow"])]
    public void Training_WhileGarbageIsCollectedWithoutPause_NeitherCrashesNorGrows(MpiKind kind, int ranks) =>
        RankTests.RunScenario(kind, ranks, "garbage-collection");
}
