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
/// stop-consensus FOLDER: what only one rank knows, all ranks decide on alike, and in the end its traces are removed.
/// </summary>
internal static class StopConsensusScenario
{
    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        ProcessGroup world = runtime.World;
        int last = world.Size - 1;
        var directory = new RunDirectory(arguments[0]);
        runtime.Monitor.RecordFolder = directory.FlightRecords;
        var noLimit = new TimeLimit(null, TimeProvider.System.GetUtcNow(), TimeProvider.System);
        var stop = new StopConsensus(runtime, directory, noLimit);

        StepDecision decision = stop.Decide(
            1,
            new StepVote(
                stop.OwnReason(),
                world.Rank == last ? SaveProgress.Busy : SaveProgress.Written,
                SaveIsDue: world.Rank == 0
            )
        );
        Assert.Equal(new StepDecision(StopReason.None, 0, SaveNow: true, SaveProgress.Busy), decision);
        // Only rank 0's clock counts.
        decision = stop.Decide(1, new StepVote(stop.OwnReason(), SaveProgress.Written, SaveIsDue: world.Rank != 0));
        Assert.Equal(new StepDecision(StopReason.None, 0, SaveNow: false, SaveProgress.Written), decision);

        if (world.Rank == 0)
            File.WriteAllText(directory.StopFile, "");
        decision = stop.Decide(2, new StepVote(stop.OwnReason()));
        Assert.Equal((StopReason.StopFile, 0), (decision.Reason, decision.Rank));
        stop.Finish();
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

        decision = stop.Decide(3, new StepVote(stop.OwnReason()));
        Assert.Equal((StopReason.SIGUSR1, last), (decision.Reason, decision.Rank));
        Assert.Equal($"rank {last} received SIGUSR1", stop.Explain(decision));
        // Without a launcher no flight record is written.
        string record = Path.Combine(directory.FlightRecords, FlightRecord.FileNameOf(last));
        while (world.Rank == last && world.Size > 1 && !File.Exists(record))
            Thread.Sleep(1);
        stop.Finish();
        Assert.False(Directory.Exists(directory.FlightRecords));
    }
}
