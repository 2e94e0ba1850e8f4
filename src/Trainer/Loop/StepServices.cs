using LongNet.Core.Numerics;
using LongNet.Trainer.Data;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Loop;

/// <summary>What a <see cref="TrainingStep"/> works with besides the plan, the ranks and the state.</summary>
internal sealed record StepServices
{
    /// <summary>Which window each sequence of the run is.</summary>
    public required SampleOrder Order { get; init; }

    /// <summary>Reads windows.</summary>
    public required BatchReader Reader { get; init; }

    public required LearningRateSchedule LearningRate { get; init; }

    /// <summary>Random bits of dropout, of which every step derives its own.</summary>
    public required RandomStream Dropout { get; init; }

    /// <summary>When freed memory is released to the system.</summary>
    public required MallocTrimPolicy TrimPolicy { get; init; }

    /// <summary>A failure on purpose; null for none.</summary>
    public FaultInjection? Fault { get; init; }

    /// <summary>Read for the seconds that a step takes.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;

    /// <summary>Those that the configuration asks for.</summary>
    /// <param name="reader">The corpus. Not owned.</param>
    public static StepServices From(RunPlan plan, BatchReader reader) =>
        new()
        {
            Order = new SampleOrder(plan.Split.TrainingWindows, plan.Config.Seed),
            Reader = reader,
            LearningRate = LearningRateSchedule.From(plan.Config.Optimizer),
            Dropout = new RandomStream(0).Derive(plan.Config.Seed).Derive("dropout"),
            TrimPolicy = new MallocTrimPolicy(plan.Config.Runtime.Allocator, plan.Config.Memory.Recompute),
        };
}
