using System.CommandLine;
using System.CommandLine.Parsing;
using System.Diagnostics;
using System.Globalization;
using LongNet.Core.Devices;
using LongNet.Core.Model;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Commands;

/// <summary>longnet train: trains a model, or continues to.</summary>
internal static class TrainCommand
{
    public static Command Create()
    {
        Option<string> config = CommonOptions.Config();
        Option<string[]> set = CommonOptions.Set();
        var steps = new Option<long?>("--steps")
        {
            Description = "Stops after this step; the learning-rate schedule stays that of training.steps",
            HelpName = "N",
            CustomParser = Steps,
        };
        var output = new Option<string?>("--output", "-o")
        {
            Description = "Run directory; default: the configuration's output, or runs/NAME",
            HelpName = "DIR",
        };
        output.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && string.IsNullOrWhiteSpace(result.Tokens[0].Value))
                result.AddError("--output is empty: name a run directory.");
        });
        var resume = new Option<string>("--resume")
        {
            Description =
                "auto: go on from the run directory's last checkpoint if there is one; none: start anew; or "
                + "a checkpoint's folder",
            HelpName = "auto|none|PATH",
            DefaultValueFactory = _ => "none",
        };
        var command = new Command("train", "Trains a model on the ranks that mpiexec started, or on one without it")
        {
            config,
            set,
            steps,
            output,
            resume,
        };
        command.SetAction(parsed =>
            RankProgram.Run(runtime =>
            {
                bool finished = Train(
                    runtime,
                    parsed.GetRequiredValue(config),
                    parsed.GetValue(set)!,
                    parsed.GetValue(steps),
                    parsed.GetValue(output),
                    parsed.GetValue(resume)!
                );
                return finished ? 0 : RankProgram.StoppedEarly;
            })
        );
        return command;
    }

    private static long? Steps(ArgumentResult result)
    {
        string text = result.Tokens[0].Value;
        if (long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long value) && value >= 1)
            return value;
        result.AddError($"--steps is {text}, but must be a whole number of at least 1.");
        return null;
    }

    private static bool Train(
        DistributedRuntime runtime,
        string nameOrPath,
        string[] overrides,
        long? steps,
        string? output,
        string resume
    )
    {
        RunPlan plan = RunPlan.Agree(runtime.World, () =>
        {
            RunConfig config = ConfigurationFile.Load(ConfigurationFile.Find(nameOrPath), overrides);
            // Here, so that it holds for the first collective already.
            runtime.Monitor.Timeout = TimeSpan.FromSeconds(config.Parallel.TimeoutSeconds);
            return output is null ? config : config with { Output = output };
        });
        runtime.Monitor.ChecksCollectives = plan.Config.Parallel.CheckCollectives;
        runtime.DeviceTransport = plan.Config.Parallel.DeviceTransport;
        string settings = ProcessSettings
            .Apply(plan.Config.Runtime, runtime.Environment, plan.Config.Memory.Recompute != Recompute.None)
            .Describe();
        ComputeDevice device = DeviceChoice.Agree(runtime.World, runtime.Environment, plan.Config);
        using var mesh = new DeviceMesh(runtime.World, plan.DataRanks, plan.SequenceRanks);
        using var process = Process.GetCurrentProcess();
        var context = new RunContext
        {
            Plan = plan,
            Mesh = mesh,
            Runtime = runtime,
            Device = device,
            ProcessSettings = settings,
            LastStep = Math.Min(steps ?? plan.Config.Training.Steps, plan.Config.Training.Steps),
            Resume = resume,
            Console = Console.Out,
            ProcessStart = process.StartTime,
        };
        return new TrainingRun(context).Run();
    }
}
