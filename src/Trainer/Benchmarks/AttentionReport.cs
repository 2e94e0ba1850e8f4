using System.Text;
using System.Text.Json;
using LongNet.Core.Native;

namespace LongNet.Trainer.Benchmarks;

/// <summary>What the attention benchmark measured: a table for the console, JSON and Markdown.</summary>
/// <param name="benchmark">What was measured.</param>
/// <param name="productRate">The device's rate of matrix products, in floating-point operations per second.</param>
/// <param name="settings">Threads, kernels, memory.</param>
internal sealed class AttentionReport(AttentionBenchmark benchmark, double productRate, string settings)
{
    private const string Legend =
        "(a) dilated attention, (b) libtorch's fused kernel on the same blocks, (k) the kernel that (a) uses "
        + "on them, (c) dense causal attention by libtorch's kernel";

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        WriteIndented = true,
    };

    private readonly List<AttentionTimes> all = [];

    /// <summary>The lines above the console's table.</summary>
    public string Heading { get; } =
        (
            $"{benchmark.Heads} heads of {benchmark.HeadDim}, {benchmark.Type}, branches "
            + $"{string.Join(" ", benchmark.Schedule)}{(benchmark.Biased ? ", relative position bias" : "")}; "
            + $"{benchmark.Device.Name}, {settings}; matrix products {productRate / 1e9:F0} GFLOP/s\n"
        )
        + $"times in ms; {Legend}\n"
        + $"{"", 9} | {"forward", 53} | {"forward and backward", 53} | {"", 8} | {"peak of", 9}\n"
        + $"{"length", 9} | {"(a)", 8} {"(b)", 8} {"a/b", 5} {"(k)", 8} {"a/k", 5} {"(c)", 8} {"rate", 5} | "
        + $"{"(a)", 8} {"(b)", 8} {"a/b", 5} {"(k)", 8} {"a/k", 5} {"(c)", 8} {"rate", 5} | {"ns/token", 8} | "
        + $"{"forward", 9}\n";

    /// <summary>Adds one length's times.</summary>
    /// <returns>Their line of the console's table.</returns>
    public string Add(AttentionTimes times)
    {
        all.Add(times);
        return (
                $"{times.Length, 9} | {Ms(times.Forward), 8} {Ms(times.ForwardFloor), 8} "
                + $"{times.ForwardRatio, 5:F2} {Ms(times.ForwardBare), 8} {times.ForwardOverhead, 5:F2} "
                + $"{Ms(times.Dense), 8} {ForwardShare(times), 5:P0} | "
            )
            + (
                $"{Ms(times.Both), 8} {Ms(times.BothFloor), 8} {times.BothRatio, 5:F2} "
                + $"{Ms(times.BothBare), 8} {times.BothOverhead, 5:F2} {Ms(times.DenseBoth), 8} "
                + $"{BothShare(times), 5:P0} | "
            )
            + $"{NanosecondsPerToken(times), 8:F0} | {Growth(times), 9}";
    }

    public string ToJson() =>
        JsonSerializer.Serialize(
            new
            {
                benchmark.Heads,
                benchmark.HeadDim,
                Dtype = benchmark.Type.ToString(),
                benchmark.Biased,
                Device = benchmark.Device.Name,
                Libtorch = LibTorch.Version,
                Settings = settings,
                ProductRate = productRate,
                Times = all,
            },
            Json
        ) + "\n";

    public string ToMarkdown()
    {
        var text = new StringBuilder();
        text.Append($"## Attention in {benchmark.Type} on {benchmark.Device.Name}\n\n");
        text.Append("| | |\n| --- | --- |\n");
        text.Append($"| libtorch | {LibTorch.Version ?? "unknown"} |\n");
        text.Append(
            $"| attention | {benchmark.Heads} heads of {benchmark.HeadDim}, causal, branches "
                + $"{string.Join(" ", benchmark.Schedule)}{Bias} |\n"
        );
        text.Append($"| measured | the shortest of {benchmark.Rounds}; {settings} |\n");
        text.Append($"| matrix products | {productRate / 1e12:F2} TFLOP/s |\n\n");
        text.Append($"Times in milliseconds: {Legend}. Share: of the rate of matrix products.\n\n");
        text.Append(
            "| length | forward (a) | (b) | a/b | (k) | a/k | (c) | share | forward and backward (a) | (b) "
                + "| a/b | (k) | a/k | (c) | share | ns per token | peak of forward |\n"
        );
        text.Append(
            "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | "
                + "---: | ---: | ---: | ---: |\n"
        );
        foreach (AttentionTimes times in all)
        {
            text.Append(
                $"| {times.Length} | {Ms(times.Forward)} | {Ms(times.ForwardFloor)} | "
                    + $"{times.ForwardRatio:F2} | {Ms(times.ForwardBare)} | {times.ForwardOverhead:F2} | "
                    + $"{Ms(times.Dense)} | {ForwardShare(times):P0} "
            );
            text.Append(
                $"| {Ms(times.Both)} | {Ms(times.BothFloor)} | {times.BothRatio:F2} | {Ms(times.BothBare)} "
                    + $"| {times.BothOverhead:F2} | {Ms(times.DenseBoth)} | {BothShare(times):P0} "
            );
            text.Append($"| {NanosecondsPerToken(times):F1} | {Growth(times)} |\n");
        }

        return text.ToString();
    }

    private string Bias => benchmark.Biased ? ", relative position bias" : "";

    private double ForwardShare(AttentionTimes times) => times.Flops / times.Forward / productRate;

    private double BothShare(AttentionTimes times) =>
        times.Flops * (1 + AttentionTimes.BackwardFlops) / times.Both / productRate;

    private static double NanosecondsPerToken(AttentionTimes times) => times.Both / times.Length * 1e9;

    private static string Growth(AttentionTimes times) =>
        times.ForwardGrowth is long bytes ? $"{(double)bytes / times.QueryBytes:F1} x Q" : "unknown";

    private static string Ms(double? seconds) =>
        seconds switch
        {
            null => "-",
            < 1e-2 => $"{seconds * 1e3:F2}",
            _ => $"{seconds * 1e3:F1}",
        };
}
