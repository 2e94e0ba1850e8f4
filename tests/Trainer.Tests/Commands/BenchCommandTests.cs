using System.Text.Json;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Trainer.Tests.Commands;

public class BenchCommandTests
{
    [Theory]
    [InlineData("float32")]
    [InlineData("bfloat16")]
    public void Attention_ShortSequences_WritesEveryNumber(string dtype)
    {
        using var folder = new TemporaryFolder();
        ProgramResult result = Run(
            "--lengths", "256,512", "--segment-lengths", "64,256", "--dilation-rates", "1,4", "--heads", "4", "--head-dim", "16",
            "--dtype", dtype, "--rounds", "1", "--longest-dense", "256", "--json", folder["bench.json"]).AssertSuccess();
        Assert.Contains("4 heads of 16,", result.Output, StringComparison.Ordinal);

        JsonElement[] times = [.. JsonDocument.Parse(File.ReadAllText(folder["bench.json"])).RootElement.GetProperty("times").EnumerateArray()];
        Assert.Equal([256, 512], times.Select(time => time.GetProperty("length").GetInt64()));
        foreach (JsonElement time in times)
        {
            foreach (string key in new[] { "forward", "forward_floor", "both", "both_floor", "forward_ratio", "both_ratio" })
                Assert.True(time.GetProperty(key).GetDouble() > 0, key);
        }

        // Causal: r (r + 1) / 2 pairs of r kept rows, two products of 16 channels, two operations each, on all heads.
        Assert.Equal(4 * 16 * 4 * ((4 * 64 * 65 / 2) + (64 * 65 / 2)), times[0].GetProperty("flops").GetDouble());
        Assert.Equal([true, false], times.Select(time => time.GetProperty("dense").ValueKind == JsonValueKind.Number));
    }

    [Theory]
    [InlineData("--lengths=0", "--lengths has 0, but takes whole numbers of at least 1, separated by commas.")]
    [InlineData("--dtype=int8", "--dtype is int8, but must be one of float32, bfloat16, float64.")]
    [InlineData("--dilation-rates=1,2", "The segment schedule has 4 segment lengths but 2 dilation rates: give one dilation rate per segment length.")]
    [InlineData("--json=/proc/nowhere/x", "--json /proc/nowhere/x cannot be written: ")]
    public void Attention_Mistakes_AreNamed(string option, string message)
    {
        ProgramResult result = Run(option.StartsWith("--lengths", StringComparison.Ordinal) ? [option] : ["--lengths", "16", "--rounds", "1", option]);
        Assert.Equal(2, result.ExitCode);
        Assert.StartsWith($"longnet: {message}", result.Error, StringComparison.Ordinal);
    }

    private static ProgramResult Run(params string[] arguments) =>
        ProgramRun.ToEnd(TimeSpan.FromMinutes(2), Repository.LongNet, ["bench", "attention", .. arguments]);
}
