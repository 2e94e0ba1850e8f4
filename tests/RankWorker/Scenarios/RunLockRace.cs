using LongNet.Core;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Runs;
using Xunit;

namespace LongNet.RankWorker.Scenarios;

/// <summary>Processes that find the lock of a dead run at the same time: one of them gets it.</summary>
internal static class RunLockRace
{
    private const int Rounds = 50;

    // Arguments: the run directory, and a file with the dead run's lock.
    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        ProcessGroup world = runtime.World;
        var directory = new RunDirectory(arguments[0]);
        for (int round = 0; round < Rounds; round++)
        {
            if (world.Rank == 0)
                File.Copy(arguments[1], Path.Combine(directory.Path, RunLock.FileName));
            _ = ObjectCollectives.AllGatherText(world, "ready");
            using RunLock? held = Hold();
            string[] all = ObjectCollectives.AllGatherText(
                world,
                held is null ? "refused" : held.StaleHolder ?? "there was none"
            );
            Assert.Equal(
                "process 4711 on " + Environment.MachineName + ", which ended without removing it",
                Assert.Single(all, text => text != "refused")
            );
            held?.Dispose();
            _ = ObjectCollectives.AllGatherText(world, "done");
        }

        RunLock? Hold()
        {
            try
            {
                return directory.AcquireLock();
            }
            catch (UserException refusal)
            {
                Assert.StartsWith(
                    $"The run directory {directory.Path} is in use by ",
                    refusal.Message,
                    StringComparison.Ordinal
                );
                return null;
            }
        }
    }
}
