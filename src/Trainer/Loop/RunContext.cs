using LongNet.Core.Devices;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Runs;

namespace LongNet.Trainer.Loop;

/// <summary>What a <see cref="TrainingRun"/> is to do, and where.</summary>
internal sealed record RunContext
{
    public required RunPlan Plan { get; init; }

    /// <summary>The ranks. Not owned.</summary>
    public required DeviceMesh Mesh { get; init; }

    /// <summary>The ranks' runtime, whose signals ask for a stop while steps are done. Not owned.</summary>
    public required DistributedRuntime Runtime { get; init; }

    /// <summary>Where this rank computes.</summary>
    public required ComputeDevice Device { get; init; }

    /// <summary>What was set for the process, for the log.</summary>
    public required string ProcessSettings { get; init; }

    /// <summary>Step to stop at; training.steps or earlier.</summary>
    public required long LastStep { get; init; }

    /// <summary>none, auto, or a path.</summary>
    public required string Resume { get; init; }

    /// <summary>Written to on rank 0 only. Not owned.</summary>
    public required TextWriter Console { get; init; }

    /// <summary>When this process started: the time limit counts from there.</summary>
    public required DateTimeOffset ProcessStart { get; init; }

    /// <summary>The time of limits, checkpoints and steps.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;

    public RunDirectory Directory => new(Plan.Config.Output!);

    /// <summary>All ranks.</summary>
    public ProcessGroup World => Mesh.World;
}
