using System.CommandLine;
using LongNet.Core;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Benchmarks;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Platform;
using static TorchSharp.torch;

namespace LongNet.Trainer.Commands;

/// <summary>longnet bench collectives: what communication costs between the ranks that mpiexec started.</summary>
internal static class BenchCollectivesCommand
{
    // Of one rank; the ranks of a machine have as many buffers.
    private const long LargestBytes = 16L << 30;

    private static readonly Dictionary<string, ScalarType> Types = new()
    {
        ["float32"] = ScalarType.Float32,
        ["bfloat16"] = ScalarType.BFloat16,
    };

    public static Command Create()
    {
        string[] names = [.. CollectiveOperation.All.Select(operation => operation.Name)];
        Option<string[]> sizes = List(
            "--sizes",
            "Sizes, as nccl-tests count them, with or without KB, MB or GB",
            "SIZE,SIZE,...",
            ["64KB", "1MB", "16MB", "64MB"],
            text =>
                ByteSize.Parse(text) is <= LargestBytes
                    ? null
                    : $"sizes from 1B to {ByteSize.Format(LargestBytes)}, such as 64KB or 16MB"
        );
        Option<string[]> operations = List("--operations", "What is measured", "NAME,NAME,...", names, text =>
            names.Contains(text) ? null : string.Join(", ", names)
        );
        var dtype = new Option<string>("--dtype")
        {
            Description = "Element type: float32 or bfloat16",
            DefaultValueFactory = _ => "float32",
        };
        dtype.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && !Types.ContainsKey(result.Tokens[0].Value))
                result.AddError(
                    $"--dtype is {result.Tokens[0].Value}, but must be one of {string.Join(", ", Types.Keys)}."
                );
        });
        var rounds = new Option<int>("--rounds")
        {
            Description = "Times that each is measured; the shortest and the one in the middle are told",
            DefaultValueFactory = _ => 20,
        };
        rounds.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && int.TryParse(result.Tokens[0].Value, out int value) && value < 1)
                result.AddError($"--rounds is {value}, but must be at least 1.");
        });
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
            "collectives",
            $"Collectives between the ranks that mpiexec started. In its table, {CollectiveReport.Conventions}"
        )
        {
            sizes,
            operations,
            dtype,
            rounds,
            json,
            markdown,
        };
        command.SetAction(parsed =>
            RankProgram.Run(runtime =>
            {
                if (runtime.World.Size < 2)
                    throw new UserException(
                        "bench collectives needs at least two ranks: mpiexec -n 2 longnet bench collectives."
                    );
                string settings = ProcessSettings.Apply(new RuntimeConfig(), runtime.Environment).Describe();
                var benchmark = new CollectiveBenchmark(
                    runtime.World,
                    Types[parsed.GetValue(dtype)!],
                    parsed.GetValue(rounds)
                );
                var report = new CollectiveReport(benchmark, runtime.Mpi!.Version, settings);
                bool speaks = runtime.Environment.IsRoot;
                if (speaks)
                    Console.Write(report.Heading);
                foreach (string operation in parsed.GetValue(operations)!)
                {
                    foreach (string size in parsed.GetValue(sizes)!)
                    {
                        string line = report.Add(
                            benchmark.Run(
                                CollectiveOperation.All.First(each => each.Name == operation),
                                ByteSize.Parse(size)!.Value
                            )
                        );
                        if (speaks)
                            Console.WriteLine(line);
                    }
                }

                RankConsensus.RunOnRoot(runtime.World, () =>
                {
                    BenchCommand.Write("--json", parsed.GetValue(json), report.ToJson);
                    BenchCommand.Write("--markdown", parsed.GetValue(markdown), report.ToMarkdown);
                    return true;
                });
            })
        );
        return command;
    }

    /// <param name="allowed">What the option takes, where the text is none of it; else null.</param>
    private static Option<string[]> List(
        string name,
        string description,
        string helpName,
        string[] standard,
        Func<string, string?> allowed
    ) =>
        new(name)
        {
            Description = $"{description}, separated by commas",
            HelpName = helpName,
            DefaultValueFactory = _ => standard,
            CustomParser = result =>
            {
                string[] texts = [.. result.Tokens.SelectMany(token => token.Value.Split(','))];
                foreach (string text in texts)
                {
                    if (allowed(text) is string instead)
                        result.AddError($"{name} has {text}, but takes {instead}, separated by commas.");
                }

                return texts;
            },
        };
}
