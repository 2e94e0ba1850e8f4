using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Core.Numerics;
using LongNet.Core.Optimization;
using LongNet.TestKit;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Model;

public class SubLayerNormTests
{
    // float64 rounding of sums of at most 256 terms; LayerNorm divides by deviations of about 0.1.
    private const double Tolerance = 1e-11;

    private static readonly SegmentSchedule Schedule = new(new Branch(8, 1), new Branch(24, 2));

    private static readonly LongNetConfig Config = new()
    {
        Layers = 2,
        DModel = 32,
        Heads = 4,
        FeedForward = 48,
        Vocabulary = 256,
        Schedule = Schedule,
        Positions = PositionEncoding.None,
        SubLayerNorm = true,
    };

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Attention_OutputAndEveryGradient_EqualTheFormula(bool causal)
    {
        using var scope = NewDisposeScope();
        using var attention = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = 16,
                Heads = 2,
                Branches = Schedule,
                Causal = causal,
                SubLayerNorm = true,
            }
        );
        attention.to(float64);
        Dictionary<string, Parameter> parameters = Randomized(attention);
        Assert.Equal(10, parameters.Count);
        AssertEqual(parameters, randn([2, 21, 16], dtype: float64), attention.forward, x =>
            Attention(x, parameters, "", 2, causal)
        );
    }

    [Fact]
    public void Block_OutputAndEveryGradient_EqualTheFormula()
    {
        using var scope = NewDisposeScope();
        using var block = new TransformerBlock(Config, null, null);
        block.to(float64);
        Dictionary<string, Parameter> parameters = Randomized(block);
        Assert.Equal(20, parameters.Count);
        AssertEqual(
            parameters,
            randn([2, 21, 32], dtype: float64),
            x => block.forward(x, null),
            x =>
            {
                Tensor attended =
                    x + Attention(Norm(x, parameters, "self_attn_layer_norm"), parameters, "self_attn.", 4, true);
                Tensor hidden = Project(Norm(attended, parameters, "final_layer_norm"), parameters, "ffn.fc1");
                // GELU as defined, not its tanh approximation.
                Tensor activated = hidden * (1 + (hidden / Math.Sqrt(2)).erf()) / 2;
                return attended + Project(Norm(activated, parameters, "ffn.ffn_layernorm"), parameters, "ffn.fc2");
            }
        );
    }

    [Fact]
    public void Model_Parameters_HaveTheAuthorsNamesAndBeginAsTheIdentity()
    {
        using var scope = NewDisposeScope();
        using var model = new LongNetLanguageModel(Config, seed: 1);
        using var without = new LongNetLanguageModel(Config with { SubLayerNorm = false }, seed: 1);
        string[] added =
        [
            .. model
                .named_parameters()
                .Select(entry => entry.name)
                .Except(without.named_parameters().Select(entry => entry.name)),
        ];
        Assert.Equal(
            Enumerable
                .Range(0, 2)
                .SelectMany(layer =>
                    new[] { "self_attn.inner_attn_ln", "ffn.ffn_layernorm" }.SelectMany(name =>
                        new[] { $"layers.{layer}.{name}.bias", $"layers.{layer}.{name}.weight" }
                    )
                )
                .Order(StringComparer.Ordinal),
            added.Order(StringComparer.Ordinal)
        );
        foreach (string name in added)
            Assert.True(
                model
                    .get_parameter(name)!
                    .eq(name.EndsWith("weight", StringComparison.Ordinal) ? 1 : 0)
                    .all()
                    .item<bool>(),
                name
            );
        // The rest draws the numbers that it draws without.
        foreach (var (name, parameter) in without.named_parameters())
            Assert.True(parameter.eq(model.get_parameter(name)!).all().item<bool>(), name);
    }

    [Fact]
    public void WeightDecay_LeavesItAlone()
    {
        using var scope = NewDisposeScope();
        using var model = new LongNetLanguageModel(Config, seed: 1);
        var named = model.named_parameters().Select(entry => (entry.name, entry.parameter)).ToArray();
        Tensor[] before = [.. named.Select(entry => entry.parameter.detach().clone())];
        using var optimizer = new FusedAdamW(
            named,
            [.. named.Select(entry => zeros_like(entry.parameter))],
            new AdamWOptions(0.9, 0.95, 1e-8, 0.1)
        );
        optimizer.Step(0.1);
        for (int p = 0; p < named.Length; p++)
        {
            // No gradient: only decay, by 0.1 · 0.1, moves a parameter.
            double factor = named[p].parameter.dim() >= 2 ? 0.99 : 1;
            Compare.AssertClose(named[p].parameter, before[p] * factor, factor == 1 ? 0 : 1e-6, named[p].name);
        }
    }

    private static Dictionary<string, Parameter> Randomized(nn.Module module)
    {
        using var noGradient = no_grad();
        var parameters = module.named_parameters().ToDictionary(entry => entry.name, entry => entry.parameter);
        foreach (Parameter parameter in parameters.Values)
            parameter.add_(randn_like(parameter) * 0.2);
        return parameters;
    }

    private static Tensor Attention(
        Tensor x,
        Dictionary<string, Parameter> parameters,
        string prefix,
        long heads,
        bool causal
    )
    {
        Tensor mixed = AttentionOracle.Attend(
            Heads("q_proj"),
            Heads("k_proj"),
            Heads("v_proj"),
            new AttentionPattern(Schedule, causal)
        );
        return Project(
            Norm(mixed.reshape(x.shape), parameters, prefix + "inner_attn_ln"),
            parameters,
            prefix + "out_proj"
        );

        Tensor Heads(string name) =>
            Project(x, parameters, prefix + name).view(x.shape[0], x.shape[1], heads, x.shape[2] / heads);
    }

    private static Tensor Project(Tensor x, Dictionary<string, Parameter> parameters, string name) =>
        x.matmul(parameters[name + ".weight"].t()) + parameters[name + ".bias"];

    private static Tensor Norm(Tensor x, Dictionary<string, Parameter> parameters, string name)
    {
        Tensor centred = x - x.mean([-1], keepdim: true);
        return centred / (centred.square().mean([-1], keepdim: true) + 1e-5).sqrt() * parameters[name + ".weight"]
            + parameters[name + ".bias"];
    }

    private static void AssertEqual(
        Dictionary<string, Parameter> parameters,
        Tensor x,
        Func<Tensor, Tensor> module,
        Func<Tensor, Tensor> formula
    )
    {
        Tensor cotangent = randn_like(x);
        var (output, gradients) = Run(module);
        var (expectedOutput, expected) = Run(formula);
        Compare.AssertClose(output, expectedOutput, Tolerance, "output");
        double largest = expected.Values.Max(gradient => gradient.abs().max().item<double>());
        // The keys' bias moves no softmax, so that its gradient is rounding.
        foreach (string name in expected.Keys)
            Compare.AssertClose(
                gradients[name],
                expected[name],
                Tolerance,
                $"gradient of {name}",
                floor: 1e-3 * largest
            );

        (Tensor Output, Dictionary<string, Tensor> Gradients) Run(Func<Tensor, Tensor> function)
        {
            foreach (Parameter parameter in parameters.Values)
                parameter.grad = null;
            Tensor input = x.detach().clone().requires_grad_();
            Tensor output = function(input);
            BackwardPass.Run((output * cotangent).sum());
            var gradients = parameters.ToDictionary(entry => entry.Key, entry => entry.Value.grad!.clone());
            gradients["the input"] = input.grad!;
            return (output, gradients);
        }
    }
}
