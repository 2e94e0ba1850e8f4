using LongNet.Core;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using Xunit;

namespace LongNet.RankWorker.Scenarios;

/// <summary>All ranks throw an error of the user that only some see, and can still communicate after it.</summary>
internal static class RankConsensusScenario
{
    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        ProcessGroup world = runtime.World;
        int last = world.Size - 1;

        Assert.Equal(world.Rank + 1, RankConsensus.Run(world, () => world.Rank + 1));

        var everywhere = Assert.Throws<AgreedUserException>(() =>
            RankConsensus.Run(world, () => throw new UserException("data.path is missing."))
        );
        Assert.Equal("data.path is missing.", everywhere.Message);

        var somewhere = Assert.Throws<AgreedUserException>(() => RankConsensus.Run(world, () =>
            {
                if (world.Rank == last)
                    throw new UserException("data.path is missing.");
            }));
        Assert.Equal(
            world.Size == 1 ? "data.path is missing." : $"Rank {last}: data.path is missing.",
            somewhere.Message
        );

        Assert.Equal(world.Rank == 0 ? "done" : null, RankConsensus.RunOnRoot(world, () => "done"));
        var onRoot = Assert.Throws<AgreedUserException>(() =>
            RankConsensus.RunOnRoot<string>(world, () => throw new UserException("the disk is full."))
        );
        Assert.Equal("the disk is full.", onRoot.Message);

        for (int root = 0; root < world.Size; root++)
        {
            Assert.Equal(
                $"ünïcode {root}",
                ObjectCollectives.BroadcastText(world, world.Rank == root ? $"ünïcode {root}" : null, root)
            );
            Assert.Empty(ObjectCollectives.Broadcast(world, world.Rank == root ? [] : null, root));
        }
    }
}
