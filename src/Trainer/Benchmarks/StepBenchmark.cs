using LongNet.Core.Attention;
using LongNet.Core.Devices;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Measuring;
using LongNet.Trainer.Reporting;
using static TorchSharp.torch;

namespace LongNet.Trainer.Benchmarks;

/// <summary>What a training step of a configuration takes.</summary>
internal sealed record StepTimes
{
    /// <summary>Target tokens of a step, over all ranks.</summary>
    public required long Tokens { get; init; }

    /// <summary>The shortest step.</summary>
    public required double Seconds { get; init; }

    /// <summary>The part of it for which rank 0 waited for collectives.</summary>
    public required double ExposedCommunicationSeconds { get; init; }

    /// <summary>How long collectives were in flight in it.</summary>
    public required double InFlightCommunicationSeconds { get; init; }

    /// <summary>The most memory of any rank's device; null where the system does not report it.</summary>
    public required long? PeakMemoryBytes { get; init; }

    /// <summary>How often rank 0 waited for its device to read a value, per step; 0 on the CPU.</summary>
    public required double DeviceReads { get; init; }

    /// <summary>Floating-point operations of a step's matrix products, over all ranks.</summary>
    public required double Flops { get; init; }

    /// <summary>
    /// Rate of matrix products of all ranks together, in operations per second, each with its own threads.
    /// </summary>
    public required double ProductRate { get; init; }

    public double TokensPerSecond => Tokens / Seconds;

    public double FlopsPerSecond => Flops / Seconds;

    public double ShareOfProductRate => FlopsPerSecond / ProductRate;
}

/// <summary>
/// Real training steps: data, forward, backward, reduction, optimizer; neither evaluation nor checkpoint.
/// </summary>
internal static class StepBenchmark
{
    private const int Warmup = 2;

    // Forward is one product per parameter and token, backward two; each a multiplication and an addition.
    private const double FlopsPerParameterAndToken = 6;

    /// <summary>Runs the steps. Collective over the mesh.</summary>
    public static StepTimes Run(RunPlan plan, DeviceMesh mesh, ComputeDevice device, int steps)
    {
        using var state = TrainingState.Create(plan, mesh, device);
        using ITokenSource source = plan.Corpus.OpenTokens();
        var reader = new BatchReader(source, plan.Config.Training.SequenceLength);
        using var step = new TrainingStep(plan, mesh, state, StepServices.From(plan, reader));
        double rate = mesh.World.Sum(ProductRate(plan, device));
        for (int warmup = 0; warmup < Warmup; warmup++)
            step.Run();
        long reads = DeviceRead.Count;
        StepMetrics shortest = Enumerable
            .Range(0, steps)
            .Select(_ => step.Run())
            .MinBy(each => (each.IsSkipped, each.StepSeconds))!;
        long tokens = plan.Config.Training.BatchSize * plan.Config.Training.SequenceLength;
        return new StepTimes
        {
            Tokens = tokens,
            Seconds = shortest.StepSeconds,
            ExposedCommunicationSeconds = shortest.ExposedCommunicationSeconds,
            InFlightCommunicationSeconds = shortest.InFlightCommunicationSeconds,
            PeakMemoryBytes = shortest.PeakMemoryBytes,
            DeviceReads = (double)(DeviceRead.Count - reads) / steps,
            Flops = Flops(plan.Config, tokens),
            ProductRate = rate,
        };
    }

    // On a GPU in the type of the run, whose products have units of their own there.
    private static double ProductRate(RunPlan plan, ComputeDevice device) =>
        device.IsCpu
            ? AttentionBenchmark.ProductRate(BenchDevice.Cpu, ScalarType.Float32)
            : AttentionBenchmark.ProductRate(BenchDevice.Of(device), plan.Config.Precision.ToType());

    /// <summary>Operations of a step, computed from the shapes only.</summary>
    public static double Flops(RunConfig config, long tokens)
    {
        ModelConfig model = config.Model;
        // Matrix products per layer: four projections of the attention and two of the feed-forward network; then the
        // projection to the vocabulary. The embedding is a lookup.
        double parameters =
            model.Layers * (4.0 * model.DModel * model.DModel + 2.0 * model.DModel * model.FeedForward!.Value)
            + (double)model.DModel * model.Vocabulary;
        return tokens * FlopsPerParameterAndToken * parameters
            + config.Training.BatchSize * model.Layers * (1 + AttentionTimes.BackwardFlops) * AttentionFlops(config);
    }

    // Operations of forward, of one layer and one sequence.
    private static double AttentionFlops(RunConfig config)
    {
        long length = config.Training.SequenceLength,
            heads = config.Model.Heads,
            headDim = config.Model.DModel / heads;
        return config
            .Model.ToModel()
            .Schedule.Sum(branch =>
            {
                Branch clipped = branch with { SegmentLength = Math.Min(branch.SegmentLength, length) };
                return RowBlock
                    .OfBranch(clipped, config.Model.Attention.HeadOffsets, heads, RowRange.Whole(1, length))
                    .Sum(block => AttentionBenchmark.CausalFlops(block, headDim));
            });
    }
}
