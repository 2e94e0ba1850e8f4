using System.Diagnostics;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Runs;
using Xunit;

namespace LongNet.RankWorker.Scenarios;

/// <summary>
/// step-consensus FOLDER: what only one rank knows, all ranks decide on alike, and in the end its traces are removed.
/// </summary>
internal static class StepConsensusScenario
{
    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        ProcessGroup world = runtime.World;
        int last = world.Size - 1;
        var directory = new RunDirectory(arguments[0]);
        runtime.Monitor.RecordFolder = directory.FlightRecords;
        var noLimit = new TimeLimit(null, TimeProvider.System.GetUtcNow(), TimeProvider.System);
        var consensus = new StepConsensus(runtime, directory, noLimit);

        StepDecision decision = consensus.Decide(
            1,
            new StepVote(
                consensus.OwnReason(),
                world.Rank == last ? SaveProgress.Busy : SaveProgress.Written,
                SaveIsDue: world.Rank == 0
            )
        );
        Assert.Equal(new StepDecision(StopReason.None, 0, SaveNow: true, SaveProgress.Busy), decision);
        // Only rank 0's clock counts.
        decision = consensus.Decide(
            1,
            new StepVote(consensus.OwnReason(), SaveProgress.Written, SaveIsDue: world.Rank != 0)
        );
        Assert.Equal(new StepDecision(StopReason.None, 0, SaveNow: false, SaveProgress.Written), decision);

        if (world.Rank == 0)
            File.WriteAllText(directory.StopFile, "");
        decision = consensus.Decide(2, new StepVote(consensus.OwnReason()));
        Assert.Equal((StopReason.StopFile, 0), (decision.Reason, decision.Rank));
        consensus.CleanUp();
        Assert.False(File.Exists(directory.StopFile));

        // Twice at once, as launchers may send it.
        if (world.Rank == last)
        {
            using var kill = Process.Start(
                "sh",
                ["-c", $"kill -USR1 {Environment.ProcessId}; kill -USR1 {Environment.ProcessId}"]
            );
            kill.WaitForExit();
            while (runtime.DeferSignals().Received is null)
                Thread.Sleep(1);
        }

        decision = consensus.Decide(3, new StepVote(consensus.OwnReason()));
        Assert.Equal((StopReason.SIGUSR1, last), (decision.Reason, decision.Rank));
        Assert.Equal($"rank {last} received SIGUSR1", consensus.Explain(decision));
        // Without a launcher no flight record is written.
        string record = Path.Combine(directory.FlightRecords, FlightRecord.FileNameOf(last));
        while (world.Rank == last && world.Size > 1 && !File.Exists(record))
            Thread.Sleep(1);
        consensus.CleanUp();
        Assert.False(Directory.Exists(directory.FlightRecords));
    }
}
