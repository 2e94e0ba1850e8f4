using System.Text.Json;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>Real runs of the longnet command on real ranks.</summary>
internal static class TrainingJob
{
    public static IEnumerable<string> Arguments(string config, string output, params string[] more) =>
        ["train", "--config", config, "--output", output, .. more];

    /// <summary>
    /// Trains configs/ranks-agree.yaml to its end; fails with all that was printed unless that succeeds.
    /// </summary>
    public static ProgramResult RanksAgree(MpiKind kind, int data, int sequence, string output, params string[] more) =>
        RankTests
            .Launcher(kind)
            .Run(data * sequence, Repository.LongNet, RanksAgreeArguments(data, sequence, output, more))
            .AssertSuccess();

    public static IEnumerable<string> RanksAgreeArguments(
        int data,
        int sequence,
        string output,
        params string[] more
    ) =>
        Arguments(
            Repository.PathOf("configs/ranks-agree.yaml"),
            output,
            ["--set", $"parallel.data={data}", "--set", $"parallel.sequence={sequence}", .. more]
        );

    /// <summary>The lines of a run's metrics.jsonl that have a key.</summary>
    public static List<JsonElement> Metrics(string output, string key) =>
        [
            .. File.ReadLines(Path.Combine(output, "metrics.jsonl"))
                .Select(line => JsonDocument.Parse(line).RootElement)
                .Where(line => line.TryGetProperty(key, out _)),
        ];

    /// <summary>One number per line that has the key.</summary>
    /// <param name="output">The run.</param>
    /// <param name="key">Which lines.</param>
    /// <param name="value">The number's key; the same one where null.</param>
    public static double[] Values(string output, string key, string? value = null) =>
        [.. Metrics(output, key).Select(line => line.GetProperty(value ?? key).GetDouble())];
}
