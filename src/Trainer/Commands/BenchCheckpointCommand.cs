using System.CommandLine;
using LongNet.Core;
using LongNet.Core.Model;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Benchmarks;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Commands;

/// <summary>longnet bench checkpoint: what saving costs, alone and behind training.</summary>
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
        Option<int> saves = BenchCommand.AtLeastOne(
            new Option<int>("--saves")
            {
                Description = "Times that each is measured; the median is told",
                DefaultValueFactory = _ => 3,
            }
        );
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
                RunPlan plan = RunPlan.Agree(runtime.World, () =>
                    ConfigurationFile.Load(
                        ConfigurationFile.Find(parsed.GetRequiredValue(config)),
                        parsed.GetValue(set)!
                    )
                );
                string settings = ProcessSettings
                    .Apply(plan.Config.Runtime, runtime.Environment, plan.Config.Memory.Recompute != Recompute.None)
                    .Describe();
                string place = Path.Combine(parsed.GetRequiredValue(folder), "longnet-bench-checkpoint");
                RankConsensus.RunOnRoot(runtime.World, () =>
                    Directory.Exists(place)
                        ? throw new UserException($"{place} is already there: remove it, or give another --folder.")
                        : true
                );
                using var mesh = new DeviceMesh(runtime.World, plan.DataRanks, plan.SequenceRanks);
                SaveTimes times = CheckpointBenchmark.Run(plan, mesh, place, parsed.GetValue(saves));
                if (!runtime.Environment.IsRoot)
                    return;
                Directory.Delete(place, recursive: true);
                Console.WriteLine($"{plan.Config.Name}: {settings}");
                Console.WriteLine(
                    $"save: {times.Bytes} bytes in {times.Seconds:F3} s, {times.BytesPerSecond / 1e6:F0} MB/s"
                );
                Console.WriteLine(
                    $"behind training: {times.BehindSeconds:F3} s, of which the loop was held up "
                        + $"{times.StallSeconds:F4} s, {times.StallShare:P1}"
                );
            })
        );
        return command;
    }
}
