using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Core.Numerics;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Model;

public class LongNetLanguageModelTests
{
    private static readonly LongNetConfig Config = TinyModel.Config;

    [Fact]
    public void Parameters_HaveTheAuthorsNamesAndGpt2sInitialisation()
    {
        using var scope = NewDisposeScope();
        using var model = new LongNetLanguageModel(Config, seed: 1);
        var parameters = model.named_parameters().ToDictionary(entry => entry.name, entry => entry.parameter);
        string[] ofLayer =
        [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
            "self_attn_layer_norm",
            "ffn.fc1",
            "ffn.fc2",
            "final_layer_norm",
        ];
        string[] expected =
        [
            "embed_tokens.weight",
            "layer_norm.weight",
            "layer_norm.bias",
            .. Enumerable
                .Range(0, 2)
                .SelectMany(layer =>
                    ofLayer.SelectMany(name => new[] { $"layers.{layer}.{name}.weight", $"layers.{layer}.{name}.bias" })
                ),
        ];
        Assert.Equal(expected.Order(StringComparer.Ordinal), parameters.Keys.Order(StringComparer.Ordinal));
        // Of 8192 normal numbers of deviation 0.02; residual projections are smaller by √(2 · layers) = 2.
        Assert.InRange(parameters["embed_tokens.weight"].std().item<float>(), 0.0195, 0.0205);
        Assert.InRange(parameters["layers.0.ffn.fc2.weight"].std().item<float>(), 0.0095, 0.0105);
        Assert.Equal(0, parameters["layers.1.ffn.fc1.bias"].abs().max().item<float>());
        Assert.Equal(1, parameters["layers.1.final_layer_norm.weight"].min().item<float>());
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void GradientsReady_OfEveryBlock_ComesWhenTheyAre(bool subLayerNorm)
    {
        using var scope = NewDisposeScope();
        LongNetConfig config = Config with
        {
            Layers = 3,
            SubLayerNorm = subLayerNorm,
            RelativePositionBias = new RelativePositionBuckets(8, 16, false),
        };
        using var model = new LongNetLanguageModel(config, seed: 1);
        using var generator = new Generator(3);
        Tensor tokens = randint(0, 256, [2, 32], dtype: ScalarType.Int64, generator: generator),
            targets = tokens.roll(1, 1);
        var parameters = model.named_parameters().Select(entry => (entry.name, entry.parameter)).ToArray();
        Tensor[] without = Gradients(null);

        var order = new List<int>();
        var seen = new Dictionary<string, Tensor>();
        Tensor[] with = Gradients(block =>
        {
            order.Add(block);
            foreach (
                var (name, parameter) in parameters.Where(entry =>
                    entry.name.StartsWith($"layers.{block}.", StringComparison.Ordinal)
                )
            )
                seen.Add(name, parameter.grad!.clone().MoveToOuterDisposeScope());
        });

        Assert.Equal([2, 1, 0], order);
        Assert.Equal(parameters.Count(entry => entry.name.StartsWith("layers.", StringComparison.Ordinal)), seen.Count);
        for (int p = 0; p < parameters.Length; p++)
        {
            Assert.True(
                with[p].equal(without[p]).all().item<bool>(),
                $"the gradient of {parameters[p].name} is another one with the hooks"
            );
            if (seen.TryGetValue(parameters[p].name, out Tensor? then))
                Assert.True(
                    then.equal(with[p]).all().item<bool>(),
                    $"the gradient of {parameters[p].name} was not complete"
                );
        }

        Tensor[] Gradients(Action<int>? gradientsReady)
        {
            model.zero_grad(set_to_none: true);
            BackwardPass.Run(model.LossSum(tokens, targets, gradientsReady: gradientsReady));
            return [.. parameters.Select(entry => entry.parameter.grad!.clone())];
        }
    }

    [Fact]
    public void Parameters_DependOnTheSeedAlone()
    {
        using var scope = NewDisposeScope();
        using var model = new LongNetLanguageModel(Config, seed: 1);
        manual_seed(99);
        using var same = new LongNetLanguageModel(Config, seed: 1);
        using var other = new LongNetLanguageModel(Config, seed: 2);
        foreach (var ((name, a), (_, b)) in model.named_parameters().Zip(same.named_parameters()))
            Assert.True(a.eq(b).all().item<bool>(), name);
        Assert.False(
            model
                .get_parameter("embed_tokens.weight")!
                .eq(other.get_parameter("embed_tokens.weight")!)
                .any()
                .item<bool>()
        );
    }

    [Theory]
    [InlineData(true, 0)]
    [InlineData(false, 1)]
    public void TieEmbeddings_DecidesTheOutputProjection(bool tied, int projections)
    {
        using var model = new LongNetLanguageModel(Config with { TieEmbeddings = tied }, seed: 1);
        Assert.Equal(projections, model.named_parameters().Count(entry => entry.name == "output_projection.weight"));
        using var scope = NewDisposeScope();
        Assert.Equal([1, 5, 256], model.forward(zeros([1, 5], dtype: int64)).shape);
    }

    [Fact]
    public void Forward_IsCausal()
    {
        using var scope = NewDisposeScope();
        using var model = new LongNetLanguageModel(Config, seed: 1);
        model.to(float64);
        model.eval();
        Tensor tokens = randint(0, 256, [1, 40], dtype: int64);
        Tensor changed = tokens.clone();
        changed[0, 25] = (tokens[0, 25] + 1) % 256;
        Tensor before = model.forward(tokens),
            after = model.forward(changed);
        // float64 rounding; the changed row itself differs by far more.
        Compare.AssertClose(after.narrow(1, 0, 25), before.narrow(1, 0, 25), 1e-12, "rows before the change");
        Assert.True(Compare.RelativeError(after.narrow(1, 25, 1), before.narrow(1, 25, 1)) > 1e-3);
    }

    [Fact]
    public void LossSum_IsTheSumOverValidTargets()
    {
        using var scope = NewDisposeScope();
        using var model = new LongNetLanguageModel(Config, seed: 1);
        model.eval();
        Tensor tokens = randint(0, 256, [2, 12], dtype: int64),
            targets = randint(0, 256, [2, 12], dtype: int64);
        targets[0, 3] = LongNetLanguageModel.IgnoredTarget;
        targets[1, 11] = LongNetLanguageModel.IgnoredTarget;
        Tensor logs = nn.functional.log_softmax(model.forward(tokens), -1);
        double expected = 0;
        for (int b = 0; b < 2; b++)
        {
            for (int i = 0; i < 12; i++)
            {
                long target = targets[b, i].item<long>();
                expected -= target < 0 ? 0 : logs[b, i, target].item<float>();
            }
        }

        // float32 sums of 22 losses.
        Assert.Equal(expected, model.LossSum(tokens, targets).item<float>(), expected * 1e-6);
        Assert.Equal(0, model.LossSum(tokens, full_like(targets, LongNetLanguageModel.IgnoredTarget)).item<float>());
    }

    [Fact]
    public void Training_OnOneSequence_LearnsItByHeart()
    {
        using var scope = NewDisposeScope();
        using var model = new LongNetLanguageModel(Config, seed: 1);
        var named = model.named_parameters().Select(entry => (entry.name, entry.parameter)).ToArray();
        foreach (var (_, parameter) in named)
            parameter.grad = zeros_like(parameter);
        using var optimizer = new Core.Optimization.FusedAdamW(
            named,
            [.. named.Select(entry => entry.parameter.grad!)],
            new Core.Optimization.AdamWOptions()
        );
        using var generator = new Generator(4);
        Tensor text = randint(0, 256, [1, 41], dtype: int64, generator: generator);
        Tensor tokens = text.narrow(1, 0, 40),
            targets = text.narrow(1, 1, 40);
        double first = 0,
            last = 0;
        for (int step = 0; step < 150; step++)
        {
            using var stepScope = NewDisposeScope();
            foreach (var (_, parameter) in named)
                parameter.grad!.zero_();
            Tensor loss = model.LossSum(tokens, targets).mul(tensor(1f / 40));
            BackwardPass.Run(loss);
            optimizer.Step(3e-3);
            last = loss.item<float>();
            first = step == 0 ? last : first;
        }

        Assert.InRange(first, 5.3, 5.8); // ln 256 = 5.5
        Assert.InRange(last, 0, 0.1);
    }
}
