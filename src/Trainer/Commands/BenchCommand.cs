using System.CommandLine;
using LongNet.Core.Model;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Commands;

/// <summary>longnet bench: what things cost on this machine.</summary>
internal static class BenchCommand
{
    public static Command Create() =>
        new("bench", "Measures what things cost on this machine")
        {
            BenchAttentionCommand.Create(),
            BenchCollectivesCommand.Create(),
            BenchCheckpointCommand.Create(),
            BenchDecodeCommand.Create(),
            BenchLossCommand.Create(),
            BenchStepCommand.Create(),
        };

    /// <summary>Settings of a benchmark that runs in one process.</summary>
    /// <param name="runtime">Of this rank.</param>
    /// <param name="name">The benchmark, as on the command line.</param>
    /// <param name="threads">CPU threads; null for all.</param>
    /// <returns>The settings, for the report.</returns>
    /// <exception cref="AgreedUserException">Several ranks were started.</exception>
    public static string ApplyToOneProcess(DistributedRuntime runtime, string name, int? threads) =>
        runtime.World.Size == 1
            ? ProcessSettings.Apply(new RuntimeConfig { Threads = threads }, runtime.Environment).Describe()
            : throw new AgreedUserException($"bench {name} measures one process: start it without mpiexec.");

    /// <summary>
    /// The plan of a configuration whose training or saving is measured, and the settings it was given. Collective.
    /// </summary>
    public static (RunPlan Plan, string Settings) LoadPlan(
        DistributedRuntime runtime,
        string nameOrPath,
        string[] overrides
    )
    {
        RunPlan plan = RunPlan.Agree(runtime.World, () =>
            ConfigurationFile.Load(ConfigurationFile.Find(nameOrPath), overrides)
        );
        runtime.DeviceTransport = plan.Config.Parallel.DeviceTransport;
        string settings = ProcessSettings
            .Apply(plan.Config.Runtime, runtime.Environment, plan.Config.Memory.Recompute != Recompute.None)
            .Describe();
        return (plan, settings);
    }
}
