using System.Diagnostics;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Runs;
using Xunit;

namespace LongNet.RankWorker.Scenarios;

/// <summary>
/// stop-agreement FOLDER: what one rank alone knows, all agree on, and in the end nothing is left of it.
/// </summary>
internal static class StopAgreementScenario
{
    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        ProcessGroup world = runtime.World;
        int last = world.Size - 1;
        var directory = new RunDirectory(arguments[0]);
        runtime.Monitor.RecordFolder = directory.FlightRecords;
        var stop = new StopAgreement(runtime, directory, new TrainingConfig { Steps = 1, SequenceLength = 1 });

        StepAgreement agreement = stop.AfterStep(1, (byte)(15 - world.Rank));
        Assert.False(agreement.Stops);
        Assert.Equal(Enumerable.Range(0, world.Size).Select(rank => (byte)(15 - rank)), agreement.Extras);
        Assert.Throws<ArgumentOutOfRangeException>(() => stop.AfterStep(1, 16));

        if (world.Rank == 0)
            File.WriteAllText(directory.StopFile, "");
        agreement = stop.AfterStep(2);
        Assert.Equal((StopReason.StopFile, 0), (agreement.Reason, agreement.Rank));
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

        agreement = stop.AfterStep(3, 3);
        Assert.Equal((StopReason.SIGUSR1, last), (agreement.Reason, agreement.Rank));
        Assert.Equal($"rank {last} received SIGUSR1", stop.Explain(agreement));
        Assert.All(agreement.Extras, extra => Assert.Equal(3, extra));
        // Without a launcher there are no others to tell.
        string record = Path.Combine(directory.FlightRecords, FlightRecord.FileNameOf(last));
        while (world.Rank == last && world.Size > 1 && !File.Exists(record))
            Thread.Sleep(1);
        stop.Finish();
        Assert.False(Directory.Exists(directory.FlightRecords));
    }
}
