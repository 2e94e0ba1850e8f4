using LongNet.Core.Model;
using LongNet.Core.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Model;

/// <summary>
/// What is the process's: TorchSharp's generator, and the error of a backward pass. Nothing else may use them
/// meanwhile.
/// </summary>
[CollectionDefinition(nameof(ProcessWideStateTests), DisableParallelization = true)]
[Collection(nameof(ProcessWideStateTests))]
public class ProcessWideStateTests
{
    private static readonly LongNetConfig Config = TinyModel.Config;

    [Fact]
    public void GradientsReady_ThatThrows_IsThrownByThePass()
    {
        using var scope = NewDisposeScope();
        using var model = new LongNetLanguageModel(Config, seed: 1);
        Action<int> fails = block => throw new InvalidOperationException($"block {block}");
        Tensor tokens = zeros([1, 32], dtype: ScalarType.Int64);
        Assert.Equal(
            "block 1",
            Assert
                .Throws<InvalidOperationException>(() =>
                    BackwardPass.Run(model.LossSum(tokens, tokens, gradientsReady: fails))
                )
                .Message
        );
    }

    [Theory]
    [InlineData(Recompute.Block)]
    [InlineData(Recompute.Full)]
    public void Dropout_WithoutAContext_IsTheSameInBackward(Recompute recompute)
    {
        // The loss along a parameter, by differences: only if backward sees forward's choices is its slope the
        // gradient.
        using var scope = NewDisposeScope();
        LongNetConfig config = Config with { Dropout = 0.3 };
        var execution = new ModelExecution { Recompute = recompute, TileRows = 16 };
        using var model = new LongNetLanguageModel(config, seed: 1, execution: execution);
        model.to(ScalarType.Float64);
        using var generator = new Generator(3);
        Tensor tokens = randint(0, 256, [2, 96], dtype: ScalarType.Int64, generator: generator),
            targets = tokens.roll(-1, 1);
        Tensor weight = model.get_parameter("layers.1.ffn.fc1.weight")!;
        BackwardPass.Run(Loss());
        double slope = weight.grad!.select(0, 3).select(0, 5).item<double>();
        const double Step = 1e-5;
        double difference = (At(Step) - At(-Step)) / (2 * Step);
        // The differences' own error: the square of the step, and 1e-16 of a loss of hundreds divided by it.
        Assert.Equal(difference, slope, 1e-6 * Math.Max(1, Math.Abs(slope)));
        Assert.True(Math.Abs(slope) > 1e-4, $"the slope is {slope}, too small to tell");

        Tensor Loss()
        {
            random.manual_seed(5);
            return model.LossSum(tokens, targets);
        }

        double At(double step)
        {
            using var noGradient = no_grad();
            using Tensor element = weight.select(0, 3).select(0, 5);
            using Tensor change = tensor(step, dtype: ScalarType.Float64);
            element.add_(change, Scalars.One);
            double loss = Loss().item<double>();
            element.sub_(change);
            return loss;
        }
    }
}
