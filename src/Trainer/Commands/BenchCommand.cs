using System.CommandLine;
using System.Globalization;
using LongNet.Core;
using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Core.Native;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Benchmarks;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Platform;
using static TorchSharp.torch;

namespace LongNet.Trainer.Commands;

/// <summary>longnet bench: what things cost on this machine.</summary>
internal static class BenchCommand
{
    internal static readonly IReadOnlyDictionary<string, ScalarType> Types = new Dictionary<string, ScalarType>
    {
        ["float32"] = ScalarType.Float32,
        ["bfloat16"] = ScalarType.BFloat16,
        ["float64"] = ScalarType.Float64,
    };

    public static Command Create() =>
        new("bench", "Measures what things cost on this machine")
        {
            Attention(),
            BenchCollectivesCommand.Create(),
            BenchCheckpointCommand.Create(),
            Decode(),
            BenchLossCommand.Create(),
            Step(),
        };

    private static Command Attention()
    {
        var lengths = Numbers("--lengths", "Lengths of the sequence", [8192, 32768, 131072]);
        var (segments, dilations, heads, headDim, threads) = Shape();
        Option<string> dtype = ComputeType();
        var device = new Option<string>("--device")
        {
            Description = "Where it computes: cpu or cuda",
            DefaultValueFactory = _ => "cpu",
        };
        device.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && result.Tokens[0].Value is not ("cpu" or "cuda"))
                result.AddError($"--device is {result.Tokens[0].Value}, but must be cpu or cuda.");
        });
        var rounds = new Option<int>("--rounds")
        {
            Description = "Times that each is measured; the shortest counts",
            DefaultValueFactory = _ => 3,
        };
        var dense = new Option<long>("--longest-dense")
        {
            Description = "Longest sequence for which dense attention is measured too",
            DefaultValueFactory = _ => 32768,
        };
        var bias = new Option<bool>("--bias")
        {
            Description = "With a relative position bias; the bare kernels are measured without",
        };
        var json = new Option<string?>("--json")
        {
            Description = "Writes the numbers to this file too",
            HelpName = "FILE",
        };
        var markdown = new Option<string?>("--markdown")
        {
            Description = "Writes the table to this file too",
            HelpName = "FILE",
        };
        var command = new Command(
            "attention",
            "Dilated attention against the fused kernel it is made of, and against dense attention"
        )
        {
            lengths,
            segments,
            dilations,
            heads,
            headDim,
            dtype,
            device,
            threads,
            rounds,
            dense,
            bias,
            json,
            markdown,
        };
        command.SetAction(parsed =>
            RankProgram.Run(runtime =>
            {
                string settings = OneProcess(runtime, "attention", parsed.GetValue(threads));
                var benchmark = new AttentionBenchmark(
                    BenchDevice.Find(parsed.GetValue(device)!),
                    parsed.GetValue(heads),
                    parsed.GetValue(headDim),
                    Types[parsed.GetValue(dtype)!],
                    SegmentSchedule.FromLists(parsed.GetValue(segments)!, parsed.GetValue(dilations)!),
                    parsed.GetValue(rounds),
                    parsed.GetValue(dense),
                    parsed.GetValue(bias)
                );
                Run(benchmark, parsed.GetValue(lengths)!, settings, parsed.GetValue(json), parsed.GetValue(markdown));
            })
        );
        return command;
    }

    private static Command Decode()
    {
        var prompts = Numbers("--prompts", "Rows that come before, all at once", [4096, 16384, 65536]);
        var (segments, dilations, heads, headDim, threads) = Shape();
        var rows = new Option<int>("--rows")
        {
            Description = "Rows that are decoded one by one after each prompt",
            DefaultValueFactory = _ => 256,
        };
        var command = new Command(
            "decode",
            "Row by row after prompts of several lengths: the cost is that of the keys that segments keep"
        )
        {
            prompts,
            segments,
            dilations,
            heads,
            headDim,
            threads,
            rows,
        };
        command.SetAction(parsed =>
            RankProgram.Run(runtime =>
            {
                string settings = OneProcess(runtime, "decode", parsed.GetValue(threads));
                var benchmark = new DecodeBenchmark(
                    parsed.GetValue(heads),
                    parsed.GetValue(headDim),
                    SegmentSchedule.FromLists(parsed.GetValue(segments)!, parsed.GetValue(dilations)!),
                    parsed.GetValue(rows)
                );
                Console.WriteLine(
                    $"{benchmark.Heads} heads of {benchmark.HeadDim} with their projections, float32, "
                        + $"branches {string.Join(" ", benchmark.Schedule)}; {settings}"
                );
                Console.WriteLine(
                    $"{"prompt", 9} | {"prompt ms", 10} | {"kept keys per head", 18} | {"us per row after it", 19}"
                );
                foreach (long prompt in parsed.GetValue(prompts)!)
                {
                    DecodeTimes times = benchmark.Run(prompt);
                    Console.WriteLine(
                        $"{times.Prompt, 9} | {times.PromptSeconds * 1e3, 10:F1} | "
                            + $"{times.KeptKeys, 18:F0} | {times.RowSeconds * 1e6, 19:F0}"
                    );
                }
            })
        );
        return command;
    }

    private static (
        Option<long[]> Segments,
        Option<long[]> Dilations,
        Option<long> Heads,
        Option<long> HeadDim,
        Option<int?> Threads
    ) Shape() =>
        (
            Numbers("--segment-lengths", "Segment length of every branch", [2048, 4096, 8192, 16384]),
            Numbers("--dilation-rates", "Dilation rate of every branch", [1, 2, 4, 8]),
            new Option<long>("--heads") { Description = "Heads", DefaultValueFactory = _ => 8 },
            new Option<long>("--head-dim") { Description = "Channels per head", DefaultValueFactory = _ => 64 },
            Threads()
        );

    internal static Option<int?> Threads() => new("--threads") { Description = "CPU threads; default: all" };

    internal static Option<string> ComputeType()
    {
        var dtype = new Option<string>("--dtype")
        {
            Description = "Compute type",
            DefaultValueFactory = _ => "float32",
        };
        dtype.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && !Types.ContainsKey(result.Tokens[0].Value))
                result.AddError(
                    $"--dtype is {result.Tokens[0].Value}, but must be one of {string.Join(", ", Types.Keys)}."
                );
        });
        return dtype;
    }

    internal static Option<T> AtLeastOne<T>(Option<T> option)
    {
        option.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && long.TryParse(result.Tokens[0].Value, out long value) && value < 1)
                result.AddError($"{option.Name} is {value}, but must be at least 1.");
        });
        return option;
    }

    internal static string OneProcess(DistributedRuntime runtime, string what, int? threads) =>
        runtime.World.Size == 1
            ? ProcessSettings.Apply(new RuntimeConfig { Threads = threads }, runtime.Environment).Describe()
            : throw new AgreedUserException($"bench {what} measures one process: start it without mpiexec.");

    private static Command Step()
    {
        Option<string> config = CommonOptions.Config();
        Option<string[]> set = CommonOptions.Set();
        Option<int> steps = AtLeastOne(
            new Option<int>("--steps")
            {
                Description = "Steps that are measured; the shortest counts",
                DefaultValueFactory = _ => 5,
            }
        );
        var command = new Command(
            "step",
            "Training steps of a configuration, on the ranks that mpiexec started, or on one without it"
        )
        {
            config,
            set,
            steps,
        };
        command.SetAction(parsed =>
            RankProgram.Run(runtime =>
            {
                RunPlan plan = RunPlan.Agree(runtime.World, () =>
                    ConfigurationFile.Load(
                        ConfigurationFile.Find(parsed.GetRequiredValue(config)),
                        parsed.GetValue(set)!
                    )
                );
                string settings = ProcessSettings
                    .Apply(plan.Config.Runtime, runtime.Environment, plan.Config.Memory.Recompute != Recompute.None)
                    .Describe();
                using var mesh = new DeviceMesh(runtime.World, plan.DataRanks, plan.SequenceRanks);
                StepTimes times = StepBenchmark.Run(plan, mesh, parsed.GetValue(steps));
                if (!runtime.Environment.IsRoot)
                    return;
                Console.WriteLine(
                    $"{plan.Config.Name}: {times.Tokens} tokens per step, mesh {plan.DataRanks} data x "
                        + $"{plan.SequenceRanks} sequence, {settings}"
                );
                Console.WriteLine(
                    (
                        $"{times.Seconds * 1e3:F0} ms per step, {times.TokensPerSecond:F0} tokens/s, "
                        + $"{times.FlopsPerSecond / 1e9:F0} GFLOP/s, "
                    )
                        + (
                            $"{times.ShareOfProductRate:P0} of the ranks' {times.ProductRate / 1e9:F0} "
                            + "GFLOP/s of matrix products"
                        )
                );
                if (runtime.World.Size > 1)
                {
                    Console.WriteLine(
                        $"communication: {times.CommunicationTotalSeconds * 1e3:F1} ms under way, "
                            + $"{times.CommunicationSeconds * 1e3:F1} ms of it waited for"
                    );
                }
            })
        );
        return command;
    }

    private static void Run(
        AttentionBenchmark benchmark,
        long[] lengths,
        string settings,
        string? json,
        string? markdown
    )
    {
        var report = new AttentionReport(
            benchmark,
            AttentionBenchmark.ProductRate(benchmark.Device, benchmark.Type),
            settings
        );
        Console.Write(report.Heading);
        foreach (long length in lengths)
        {
            Console.WriteLine(report.Add(benchmark.Run(length)));
            MemoryAllocator.Trim();
        }

        Write("--json", json, report.ToJson);
        Write("--markdown", markdown, report.ToMarkdown);
    }

    /// <exception cref="UserException">The file cannot be written.</exception>
    internal static void Write(string option, string? file, Func<string> text)
    {
        if (file is null)
            return;
        try
        {
            File.WriteAllText(file, text());
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new UserException($"{option} {file} cannot be written: {error.Message}");
        }
    }

    internal static Option<long[]> Numbers(string name, string description, long[] standard) =>
        new(name)
        {
            Description = $"{description}, separated by commas",
            HelpName = "N,N,...",
            DefaultValueFactory = _ => standard,
            CustomParser = result =>
            {
                var numbers = new List<long>();
                foreach (string text in result.Tokens.SelectMany(token => token.Value.Split(',')))
                {
                    if (
                        long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long number)
                        && number >= 1
                    )
                        numbers.Add(number);
                    else
                        result.AddError(
                            $"{name} has {text}, but takes whole numbers of at least 1, separated by commas."
                        );
                }

                return [.. numbers];
            },
        };
}
