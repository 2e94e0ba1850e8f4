using System.CommandLine;
using LongNet.Core.Native;
using LongNet.Trainer.Benchmarks;
using LongNet.Trainer.Measuring;

namespace LongNet.Trainer.Commands;

/// <summary>longnet bench attention: dilated attention against its own kernel and against dense attention.</summary>
internal static class BenchAttentionCommand
{
    public static Command Create()
    {
        Option<long[]> lengths = ListOption.Numbers("--lengths", "Lengths of the sequence", [8192, 32768, 131072]);
        var attention = new AttentionOptions();
        Option<string> dtype = BenchOptions.ComputeType();
        Option<string> device = new Option<string>("--device")
        {
            Description = "Where it computes: cpu or cuda",
            DefaultValueFactory = _ => "cpu",
        }.MustBe(text => text is "cpu" or "cuda", "cpu or cuda");
        Option<int?> threads = BenchOptions.Threads();
        Option<int> rounds = BenchOptions.Rounds(3);
        var longestDense = new Option<long>("--longest-dense")
        {
            Description = "Longest sequence for which dense attention is measured too",
            DefaultValueFactory = _ => 32768,
        };
        var bias = new Option<bool>("--bias")
        {
            Description = "With a relative position bias; the bare kernels are measured without",
        };
        Option<string?> json = OutputFile.Json(),
            markdown = OutputFile.Markdown();
        var command = new Command(
            "attention",
            "Dilated attention against the fused kernel it is made of, and against dense attention"
        )
        {
            lengths,
            attention.SegmentLengths,
            attention.DilationRates,
            attention.Heads,
            attention.HeadDim,
            dtype,
            device,
            threads,
            rounds,
            longestDense,
            bias,
            json,
            markdown,
        };
        command.SetAction(parsed =>
            RankProgram.Run(runtime =>
            {
                string settings = BenchCommand.ApplyToOneProcess(runtime, "attention", parsed.GetValue(threads));
                var benchmark = new AttentionBenchmark(
                    BenchDevice.Find(parsed.GetValue(device)!),
                    parsed.GetValue(attention.Heads),
                    parsed.GetValue(attention.HeadDim),
                    BenchOptions.Types[parsed.GetValue(dtype)!],
                    attention.Schedule(parsed),
                    parsed.GetValue(rounds),
                    parsed.GetValue(longestDense),
                    parsed.GetValue(bias)
                );
                AttentionReport report = Measure(benchmark, parsed.GetValue(lengths)!, settings);
                OutputFile.Write("--json", parsed.GetValue(json), report.ToJson);
                OutputFile.Write("--markdown", parsed.GetValue(markdown), report.ToMarkdown);
            })
        );
        return command;
    }

    // Prints each length's line as soon as it is measured.
    private static AttentionReport Measure(AttentionBenchmark benchmark, long[] lengths, string settings)
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

        return report;
    }
}
