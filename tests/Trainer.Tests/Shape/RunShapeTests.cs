using LongNet.TestKit;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Planning;
using LongNet.Trainer.Planning.Machines;
using LongNet.Trainer.Shape;
using LongNet.Trainer.Tests.Planning;

namespace LongNet.Trainer.Tests.Shape;

public class RunShapeTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Shape_OfOneConfiguration_IsTheSameForTheRunAndItsPrediction(int ranks)
    {
        using var folder = new TemporaryFolder();
        RunConfig config = PlannedConfigs.Small with
        {
            Data = new DataConfig { Path = [folder.Write("text", new string('a', 1000))] },
        };
        RunShape predicted = Prediction.Of(config, ranks, MachinePresets.Find("desk")).Run;
        Assert.Equal(predicted, RunPlan.Open(config, ranks).Shape);
        Assert.NotEqual(predicted, RunShape.Create(config, 3 - ranks));
    }

    [Fact]
    public void Shape_OfTwoByTwoRanks_DividesTheBatchAndTheSequence()
    {
        RunConfig config = PlannedConfigs.Small with
        {
            Parallel = new ParallelConfig { Data = 2 },
            Training = PlannedConfigs.Small.Training with { BatchSize = 8, MicroBatchSize = 2 },
        };
        var shape = RunShape.Create(config, 4);
        Assert.Equal((4, 2, 2), (shape.Ranks, shape.DataRanks, shape.SequenceRanks));
        // Half of eight rows, of two sequences at once; four sequences per rank are two micro-batches.
        Assert.Equal((4, 8, 2), (shape.TokensPerRank, shape.LocalTokens, shape.Batch.MicroSteps));
        Assert.Equal(8 * 8 * 4, shape.ActivationBytes(channels: 8));
        Assert.Equal(64, shape.TokensPerStep);
    }
}
