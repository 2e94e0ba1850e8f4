using LongNet.Core.Devices;
using LongNet.Distributed.Collectives;
using LongNet.TestKit;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Reporting;
using LongNet.Trainer.Tests.Planning;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Loop;

public class EvaluationTests
{
    [Fact]
    public void Evaluation_OfAModelWithoutOptimizerAndGradients_IsTheMeanLossOfItsHeldOutWindows()
    {
        using var folder = new TemporaryFolder();
        byte[] text = [.. Enumerable.Range(0, 1000).Select(i => (byte)('a' + i * i % 23))];
        string path = Path.Combine(folder.Path, "text");
        File.WriteAllBytes(path, text);
        RunConfig config = PlannedConfigs.Small with
        {
            Seed = 3,
            Data = new DataConfig { Path = [path], ValidationFraction = 0.1 },
            // More than are held out, in batches that do not divide them.
            Evaluation = new EvaluationConfig { EverySteps = 1, Sequences = 1000 },
            Training = PlannedConfigs.Small.Training with { BatchSize = 5 },
        };
        var plan = RunPlan.Open(config, ranks: 1);
        using var world = ProcessGroup.Solo("world");
        using var mesh = new DeviceMesh(world, 1, 1);
        using var model = TrainedModel.Create(plan.Shape, plan.Corpus.Tokenizer, mesh, ComputeDevice.Cpu);
        model.Step = 7;
        using ITokenSource source = plan.Corpus.OpenTokens();

        EvaluationMetrics metrics = new Evaluation(plan, mesh, model, new BatchReader(source, 8)).Run();

        using var scope = NewDisposeScope();
        using var noGradient = no_grad();
        long windows = plan.Split.ValidationWindows,
            first = plan.Split.TrainingWindows * 8;
        long[] tokens = [.. text.Skip((int)first).Take((int)(windows * 8 + 1)).Select(value => (long)value)];
        Tensor inputs = tensor(tokens[..^1]).view(windows, 8),
            targets = tensor(tokens[1..]).view(windows, 8);
        double expected = nn
            .functional.cross_entropy(model.Module.forward(inputs).view(-1, 256), targets.view(-1))
            .item<float>();
        Assert.Equal(7, metrics.Step);
        // Sums of float32 in another order.
        Assert.Equal(expected, metrics.Loss, 1e-5);
        Assert.Equal(1, metrics.BytesPerToken);
        Assert.All(model.Module.parameters(), parameter => Assert.Null(parameter.grad));
    }
}
