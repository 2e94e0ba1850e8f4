using System.CommandLine;
using LongNet.Core;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Benchmarks;
using LongNet.Trainer.Loop;

namespace LongNet.Trainer.Commands;

/// <summary>longnet bench checkpoint: what saving costs, by itself and behind training.</summary>
internal static class BenchCheckpointCommand
{
    public static Command Create()
    {
        Option<string> config = CommonOptions.Config();
        Option<string[]> set = CommonOptions.Set();
        var folder = new Option<string>("--folder")
        {
            Description = "Folder on the disk that is meant; what is written there is removed",
            HelpName = "DIR",
            Required = true,
        };
        Option<int> saves = new Option<int>("--saves")
        {
            Description = "Times that each is measured; the median is told",
            DefaultValueFactory = _ => 3,
        }.AtLeastOne();
        var command = new Command(
            "checkpoint",
            "Checkpoints of a configuration's state, on the ranks that mpiexec started, or on one without it"
        )
        {
            config,
            set,
            folder,
            saves,
        };
        command.SetAction(parsed =>
            RankProgram.Run(runtime =>
            {
                var (plan, settings) = BenchCommand.LoadPlan(
                    runtime,
                    parsed.GetRequiredValue(config),
                    parsed.GetValue(set)!
                );
                string checkpoints = Path.Combine(parsed.GetRequiredValue(folder), "longnet-bench-checkpoint");
                RankConsensus.RunOnRoot(runtime.World, () =>
                {
                    if (Directory.Exists(checkpoints))
                        throw new UserException(
                            $"{checkpoints} is already there: remove it, or give another --folder."
                        );
                });
                using var mesh = new DeviceMesh(runtime.World, plan.DataRanks, plan.SequenceRanks);
                SaveTimes times = CheckpointBenchmark.Run(plan, mesh, checkpoints, parsed.GetValue(saves));
                if (!runtime.Environment.IsRoot)
                    return;
                Directory.Delete(checkpoints, recursive: true);
                Print(times, plan, settings);
            })
        );
        return command;
    }

    private static void Print(SaveTimes times, RunPlan plan, string settings)
    {
        Console.WriteLine($"{plan.Config.Name}: {settings}");
        Console.WriteLine($"save: {times.Bytes} bytes in {times.Seconds:F3} s, {times.BytesPerSecond / 1e6:F0} MB/s");
        Console.WriteLine(
            $"behind training: {times.BehindSeconds:F3} s, of which the loop was held up "
                + $"{times.StallSeconds:F4} s, {times.StallShare:P1}"
        );
    }
}
