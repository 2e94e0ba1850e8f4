using LongNet.Core.Attention;
using LongNet.Core.Devices;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Reporting;
using static TorchSharp.torch;

namespace LongNet.Trainer.Benchmarks;

/// <summary>What a training step of a configuration takes.</summary>
/// <param name="Tokens">Target tokens of a step, over all ranks.</param>
/// <param name="Seconds">The shortest step.</param>
/// <param name="CommunicationSeconds">What of it rank 0 waited for collectives.</param>
/// <param name="CommunicationTotalSeconds">How long collectives were under way in it.</param>
/// <param name="Flops">Floating-point operations of a step's matrix products, over all ranks.</param>
/// <param name="ProductRate">Rate of matrix products of all ranks together, in operations per second, each with its own
/// threads.</param>
internal sealed record StepTimes(
    long Tokens,
    double Seconds,
    double CommunicationSeconds,
    double CommunicationTotalSeconds,
    double Flops,
    double ProductRate
)
{
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
    public static StepTimes Run(RunPlan plan, DeviceMesh mesh, int steps)
    {
        using var state = TrainingState.Create(plan, mesh, ComputeDevice.Cpu);
        using ITokenSource source = plan.Corpus.OpenTokens();
        var step = new TrainingStep(plan, mesh, state, new BatchReader(source, plan.Config.Training.SequenceLength));
        double rate = mesh.World.Sum(AttentionBenchmark.ProductRate(BenchDevice.Cpu, ScalarType.Float32));
        for (int warmup = 0; warmup < Warmup; warmup++)
            step.Run();
        StepMetrics shortest = Enumerable
            .Range(0, steps)
            .Select(_ => step.Run())
            .MinBy(each => (each.IsSkipped, each.StepSeconds))!;
        long tokens = plan.Config.Training.BatchSize * plan.Config.Training.SequenceLength;
        return new StepTimes(
            tokens,
            shortest.StepSeconds,
            shortest.CommunicationSeconds,
            shortest.CommunicationTotalSeconds,
            Flops(plan.Config, tokens),
            rate
        );
    }

    /// <summary>Operations of a step, from the shapes alone.</summary>
    public static double Flops(RunConfig config, long tokens)
    {
        ModelConfig model = config.Model;
        // Four projections and two of the feed-forward network per layer, and the one to the vocabulary. The embedding
        // is no product.
        double parameters =
            model.Layers * (4.0 * model.DModel * model.DModel + 2.0 * model.DModel * model.FeedForward!.Value)
            + (double)model.DModel * model.Vocabulary;
        return tokens * FlopsPerParameterAndToken * parameters
            + config.Training.BatchSize * model.Layers * (1 + AttentionTimes.BackwardFlops) * AttentionFlops(config);
    }

    // Forward, of one layer and one sequence.
    private static double AttentionFlops(RunConfig config)
    {
        long length = config.Training.SequenceLength,
            heads = config.Model.Heads,
            headDim = config.Model.DModel / heads;
        return config
            .Model.ToModel()
            .Schedule.Sum(branch =>
            {
                Branch whole = branch with { SegmentLength = Math.Min(branch.SegmentLength, length) };
                return RowBlock
                    .OfBranch(whole, config.Model.Attention.HeadOffsets, heads, RowRange.Whole(1, length))
                    .Sum(block => AttentionBenchmark.CausalFlops(block, headDim));
            });
    }
}
