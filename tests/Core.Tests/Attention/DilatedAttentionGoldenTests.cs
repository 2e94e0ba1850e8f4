using System.Text.Json;
using LongNet.Core.Attention;
using LongNet.Core.Model.Torchscale;
using LongNet.Core.Numerics;
using LongNet.Core.Serialization;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

/// <summary>The module against reference vectors made elsewhere; see Golden/README.md.</summary>
public class DilatedAttentionGoldenTests
{
    // float64 rounding of sums of up to 128 rows.
    private const double Float64Tolerance = 1e-12;

    // float32 rounding of the same sums, through four projections.
    private const double Float32Tolerance = 2e-5;

    [Theory]
    [InlineData("base_bidir")]
    [InlineData("base_causal")]
    [InlineData("heads4_r3_causal")]
    [InlineData("len50_causal")]
    [InlineData("single_w16r2_causal")]
    public void Module_OutputAndEveryGradient_MatchTheReference(string file)
    {
        foreach (
            var (reference, offsets) in new[]
            {
                ("paper_f64", HeadOffsets.Interleaved),
                ("group_f64", HeadOffsets.Blocked),
            }
        )
        {
            AssertMatches(file, reference, offsets, MixingGradient.Exact, float64, Float64Tolerance);
            AssertMatches(file, reference, offsets, MixingGradient.Exact, float32, Float32Tolerance);
        }
    }

    /// <summary>
    /// Where every segment divides the length, or padding comes after all rows that could see it, the authors' code
    /// computes the same with its constant mixing weights.
    /// </summary>
    [Theory]
    [InlineData("base_bidir")]
    [InlineData("base_causal")]
    [InlineData("heads4_r3_causal")]
    [InlineData("len50_causal")]
    [InlineData("single_w16r2_causal")]
    public void Module_DetachedMixingInBlocks_IsTheAuthorsCode(string file) =>
        // Their log-sum-exp is float32 even where the rest is float64.
        AssertMatches(file, "torchscale_f64", HeadOffsets.Blocked, MixingGradient.Detached, float64, 2e-6);

    /// <summary>With several branches, the authors' gradient is not that of the function that they compute.</summary>
    [Fact]
    public void Module_ExactMixing_DepartsFromTheAuthorsGradient()
    {
        var error = Assert.Throws<InvalidOperationException>(() =>
            AssertMatches("base_causal", "torchscale_f64", HeadOffsets.Blocked, MixingGradient.Exact, float64, 1e-2)
        );
        // The output, which comes first, agrees; the first gradient does not, and by a number.
        Assert.Matches("^gradient of x: .*: relative error 0\\.[0-9]+ is above 0\\.01\\.$", error.Message);
    }

    private static void AssertMatches(
        string file,
        string reference,
        HeadOffsets offsets,
        MixingGradient mixing,
        ScalarType dtype,
        double tolerance
    )
    {
        using var scope = NewDisposeScope();
        string path = Repository.PathOf($"tests/Core.Tests/Golden/{file}.safetensors");
        using SafetensorsReader golden = SafetensorsReader.Open(path);
        JsonElement config = JsonDocument.Parse(golden.Metadata["config"]).RootElement;
        using var module = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = config.GetProperty("d").GetInt64(),
                Heads = config.GetProperty("H").GetInt64(),
                Branches = [.. Numbers("segments").Zip(Numbers("ratios"), (w, r) => new Branch(w, r))],
                Causal = config.GetProperty("causal").GetBoolean(),
                HeadOffsets = offsets,
                MixingGradient = mixing,
            }
        );
        module.to(dtype);
        var parameters = module.named_parameters().ToArray();
        Assert.Equal(8, parameters.Length);
        TorchscaleWeights.Load(module, path, prefix: "weight.");

        Tensor x = golden.Read("x").to(dtype).requires_grad_();
        Tensor output = module.forward(x);
        BackwardPass.Run(output.mul(golden.Read("cotangent").to(dtype)).sum());

        string what = $"{file}, {reference}, {dtype}";
        Compare.AssertClose(output, golden.Read($"{reference}.out"), tolerance, $"output: {what}");
        Compare.AssertClose(x.grad!, golden.Read($"{reference}.grad.x"), tolerance, $"gradient of x: {what}");
        foreach (var (name, parameter) in parameters)
        {
            // In exact arithmetic a bias of all keys changes nothing; what is left is the rounding of sums of this
            // size.
            double floor =
                name == "k_proj.bias" ? golden.Read($"{reference}.grad.q_proj.bias").abs().max().item<double>() : 1e-30;
            Compare.AssertClose(
                parameter.grad!,
                golden.Read($"{reference}.grad.{name}"),
                tolerance,
                $"gradient of {name}: {what}",
                floor
            );
        }

        long[] Numbers(string key) => [.. config.GetProperty(key).EnumerateArray().Select(number => number.GetInt64())];
    }
}
