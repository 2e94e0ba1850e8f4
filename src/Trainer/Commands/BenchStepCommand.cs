using System.CommandLine;
using LongNet.Core.Devices;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Benchmarks;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Commands;

/// <summary>longnet bench step: what a training step of a configuration costs.</summary>
internal static class BenchStepCommand
{
    public static Command Create()
    {
        Option<string> config = CommonOptions.Config();
        Option<string[]> set = CommonOptions.Set();
        Option<int> steps = new Option<int>("--steps")
        {
            Description = "Steps that are measured; the shortest counts",
            DefaultValueFactory = _ => 5,
        }.AtLeastOne();
        var command = new Command(
            "step",
            "Training steps of a configuration, on the ranks that mpiexec started, or on one without it"
        )
        {
            config,
            set,
            steps,
        };
        command.SetAction(parsed =>
            RankProgram.Run(runtime =>
            {
                var (plan, settings) = BenchCommand.LoadPlan(
                    runtime,
                    parsed.GetRequiredValue(config),
                    parsed.GetValue(set)!
                );
                using var mesh = new DeviceMesh(runtime.World, plan.DataRanks, plan.SequenceRanks);
                ComputeDevice device = DeviceChoice.Agree(runtime.World, runtime.Environment, plan.Config);
                StepTimes times = StepBenchmark.Run(plan, mesh, device, parsed.GetValue(steps));
                if (runtime.Environment.IsRoot)
                    Print(times, plan, $"{device.Name ?? "cpu"}, {settings}", runtime.World.Size);
            })
        );
        return command;
    }

    private static void Print(StepTimes times, RunPlan plan, string settings, int ranks)
    {
        Console.WriteLine(
            $"{plan.Config.Name}: {times.Tokens} tokens per step, mesh {plan.DataRanks} data x "
                + $"{plan.SequenceRanks} sequence, {settings}"
        );
        Console.WriteLine(
            $"{times.Seconds * 1e3:F0} ms per step, {times.TokensPerSecond:F0} tokens/s, "
                + $"{times.FlopsPerSecond / 1e9:F0} GFLOP/s, "
                + $"{times.ShareOfProductRate:P0} of the ranks' {times.ProductRate / 1e9:F0} "
                + "GFLOP/s of matrix products"
        );
        if (times.PeakMemoryBytes is { } peak)
            Console.WriteLine($"peak memory {peak / 1e9:F2} GB, {times.DeviceReads:0.##} device reads per step");
        if (ranks > 1)
        {
            Console.WriteLine(
                $"communication: {times.InFlightCommunicationSeconds * 1e3:F1} ms under way, "
                    + $"{times.ExposedCommunicationSeconds * 1e3:F1} ms of it waited for"
            );
        }
    }
}
