using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using LongNet.Core;
using LongNet.Core.Attention;
using LongNet.Core.Native;
using LongNet.Distributed;
using LongNet.Trainer.Benchmarks;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Loop;
using static TorchSharp.torch;

namespace LongNet.Trainer.Commands;

/// <summary>longnet bench: what things cost on this machine.</summary>
internal static class BenchCommand
{
    private static readonly Dictionary<string, ScalarType> Types = new()
    {
        ["float32"] = ScalarType.Float32,
        ["bfloat16"] = ScalarType.BFloat16,
        ["float64"] = ScalarType.Float64,
    };

    private static readonly JsonSerializerOptions Json = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower, WriteIndented = true };

    public static Command Create() => new("bench", "Measures what things cost on this machine") { Attention(), Step() };

    private static Command Attention()
    {
        var lengths = Numbers("--lengths", "Lengths of the sequence", [8192, 32768, 131072]);
        var segments = Numbers("--segment-lengths", "Segment length of every branch", [2048, 4096, 8192, 16384]);
        var dilations = Numbers("--dilation-rates", "Dilation rate of every branch", [1, 2, 4, 8]);
        var heads = new Option<long>("--heads") { Description = "Heads", DefaultValueFactory = _ => 8 };
        var headDim = new Option<long>("--head-dim") { Description = "Channels per head", DefaultValueFactory = _ => 64 };
        var dtype = new Option<string>("--dtype") { Description = "Compute type", DefaultValueFactory = _ => "float32" };
        dtype.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && !Types.ContainsKey(result.Tokens[0].Value))
                result.AddError($"--dtype is {result.Tokens[0].Value}, but must be one of {string.Join(", ", Types.Keys)}.");
        });
        var threads = new Option<int?>("--threads") { Description = "CPU threads; default: all" };
        var rounds = new Option<int>("--rounds") { Description = "Times that each is measured; the shortest counts", DefaultValueFactory = _ => 3 };
        var dense = new Option<long>("--longest-dense") { Description = "Longest sequence for which dense attention is measured too", DefaultValueFactory = _ => 32768 };
        var json = new Option<string?>("--json") { Description = "Writes the numbers to this file too", HelpName = "FILE" };
        var command = new Command("attention", "Dilated attention against the fused kernel it is made of, and against dense attention")
        {
            lengths, segments, dilations, heads, headDim, dtype, threads, rounds, dense, json,
        };
        command.SetAction(parsed => RankProgram.Run(runtime =>
        {
            if (runtime.World.Size > 1)
                throw new UserException("bench attention measures one process: start it without mpiexec.");
            string settings = ProcessSettings.Apply(new RuntimeConfig { Threads = parsed.GetValue(threads) }, runtime.Environment);
            var benchmark = new AttentionBenchmark(
                parsed.GetValue(heads), parsed.GetValue(headDim), Types[parsed.GetValue(dtype)!],
                SegmentSchedule.FromLists(parsed.GetValue(segments)!, parsed.GetValue(dilations)!), parsed.GetValue(rounds), parsed.GetValue(dense));
            Run(benchmark, parsed.GetValue(lengths)!, settings, parsed.GetValue(json));
        }));
        return command;
    }

    private static Command Step()
    {
        Option<string> config = CommonOptions.Config();
        Option<string[]> set = CommonOptions.Set();
        var steps = new Option<int>("--steps") { Description = "Steps that are measured; the shortest counts", DefaultValueFactory = _ => 5 };
        steps.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && int.TryParse(result.Tokens[0].Value, out int value) && value < 1)
                result.AddError($"--steps is {value}, but must be at least 1.");
        });
        var command = new Command("step", "Training steps of a configuration, on the ranks that mpiexec started, or on one without it") { config, set, steps };
        command.SetAction(parsed => RankProgram.Run(runtime =>
        {
            RunPlan plan = RunPlan.Agree(
                runtime.World, () => ConfigurationFile.Load(ConfigurationFile.Find(parsed.GetRequiredValue(config)), parsed.GetValue(set)!));
            string settings = ProcessSettings.Apply(plan.Config.Runtime, runtime.Environment);
            using var mesh = new DeviceMesh(runtime.World, plan.DataRanks, plan.SequenceRanks);
            StepTimes times = StepBenchmark.Run(plan, mesh, parsed.GetValue(steps));
            if (!runtime.Environment.IsRoot)
                return;
            Console.WriteLine(Text($"{plan.Config.Name}: {times.Tokens} tokens per step, mesh {plan.DataRanks} data x {plan.SequenceRanks} sequence, {settings}"));
            Console.WriteLine(
                Text($"{times.Seconds * 1e3:F0} ms per step, {times.TokensPerSecond:F0} tokens/s, {times.FlopsPerSecond / 1e9:F0} GFLOP/s, ") +
                Text($"{times.ShareOfProductRate:P0} of the ranks' {times.ProductRate / 1e9:F0} GFLOP/s of matrix products"));
        }));
        return command;
    }

    private static void Run(AttentionBenchmark benchmark, long[] lengths, string settings, string? json)
    {
        double rate = AttentionBenchmark.ProductRate(benchmark.Type);
        Console.WriteLine(Text($"{benchmark.Heads} heads of {benchmark.HeadDim}, {benchmark.Type}, branches {string.Join(" ", benchmark.Schedule)}; {settings}; matrix products {rate / 1e9:F0} GFLOP/s"));
        Console.WriteLine("times in ms; (a) dilated attention, (b) the bare kernel on the same blocks, (c) dense causal attention");
        Console.WriteLine($"{"",9} | {"forward",38} | {"forward and backward",38} | {"",8} | {"peak of",9}");
        Console.WriteLine($"{"length",9} | {"(a)",8} {"(b)",8} {"a/b",5} {"(c)",8} {"rate",5} | {"(a)",8} {"(b)",8} {"a/b",5} {"(c)",8} {"rate",5} | {"ns/token",8} | {"forward",9}");
        var all = new List<AttentionTimes>();
        foreach (long length in lengths)
        {
            AttentionTimes times = benchmark.Run(length);
            all.Add(times);
            double both = times.Flops * (1 + AttentionTimes.BackwardFlops);
            string growth = times.ForwardGrowth is long bytes ? Text($"{(double)bytes / times.QueryBytes:F1} x Q") : "unknown";
            Console.WriteLine(
                Text($"{length,9} | {Ms(times.Forward)} {Ms(times.ForwardFloor)} {times.ForwardRatio,5:F2} {Ms(times.Dense)} {times.Flops / times.Forward / rate,5:P0} | ") +
                Text($"{Ms(times.Both)} {Ms(times.BothFloor)} {times.BothRatio,5:F2} {Ms(times.DenseBoth)} {both / times.Both / rate,5:P0} | ") +
                Text($"{times.Both / length * 1e9,8:F0} | {growth,9}"));
            MemoryAllocator.GiveBack();
        }

        if (json is not null)
        {
            try
            {
                File.WriteAllText(json, JsonSerializer.Serialize(
                    new { benchmark.Heads, benchmark.HeadDim, Dtype = benchmark.Type.ToString(), Settings = settings, ProductRate = rate, Times = all }, Json) + "\n");
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                throw new UserException($"--json {json} cannot be written: {error.Message}");
            }
        }
    }

    private static Option<long[]> Numbers(string name, string description, long[] standard) => new(name)
    {
        Description = $"{description}, separated by commas",
        HelpName = "N,N,...",
        DefaultValueFactory = _ => standard,
        CustomParser = result =>
        {
            var numbers = new List<long>();
            foreach (string text in result.Tokens.SelectMany(token => token.Value.Split(',')))
            {
                if (long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long number) && number >= 1)
                    numbers.Add(number);
                else
                    result.AddError($"{name} has {text}, but takes whole numbers of at least 1, separated by commas.");
            }

            return [.. numbers];
        },
    };

    private static string Ms(double? seconds) => seconds is double value ? Text($"{value * 1e3,8:F1}") : $"{"-",8}";

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
