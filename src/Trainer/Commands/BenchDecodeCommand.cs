using System.CommandLine;
using LongNet.Trainer.Benchmarks;

namespace LongNet.Trainer.Commands;

/// <summary>longnet bench decode: what a decoded row costs after prompts of several lengths.</summary>
internal static class BenchDecodeCommand
{
    public static Command Create()
    {
        Option<long[]> prompts = ListOption.Numbers(
            "--prompts",
            "Rows that come before, all at once",
            [4096, 16384, 65536]
        );
        var attention = new AttentionOptions();
        Option<int?> threads = BenchOptions.Threads();
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
            attention.SegmentLengths,
            attention.DilationRates,
            attention.Heads,
            attention.HeadDim,
            threads,
            rows,
        };
        command.SetAction(parsed =>
            RankProgram.Run(runtime =>
            {
                string settings = BenchCommand.ApplyToOneProcess(runtime, "decode", parsed.GetValue(threads));
                var benchmark = new DecodeBenchmark(
                    parsed.GetValue(attention.Heads),
                    parsed.GetValue(attention.HeadDim),
                    attention.Schedule(parsed),
                    parsed.GetValue(rows)
                );
                Measure(benchmark, parsed.GetValue(prompts)!, settings);
            })
        );
        return command;
    }

    private static void Measure(DecodeBenchmark benchmark, long[] prompts, string settings)
    {
        Console.WriteLine(
            $"{benchmark.Heads} heads of {benchmark.HeadDim} with their projections, float32, "
                + $"branches {string.Join(" ", benchmark.Schedule)}; {settings}"
        );
        Console.WriteLine(
            $"{"prompt", 9} | {"prompt ms", 10} | {"kept keys per head", 18} | {"us per row after it", 19}"
        );
        foreach (long prompt in prompts)
        {
            DecodeTimes times = benchmark.Run(prompt);
            Console.WriteLine(
                $"{times.Prompt, 9} | {times.PromptSeconds * 1e3, 10:F1} | "
                    + $"{times.KeptKeys, 18:F0} | {times.RowSeconds * 1e6, 19:F0}"
            );
        }
    }
}
