using System.CommandLine;
using LongNet.Core.Native;
using LongNet.Trainer.Benchmarks;
using LongNet.Trainer.Measuring;

namespace LongNet.Trainer.Commands;

/// <summary>longnet bench loss: what it costs that logits of all rows never exist.</summary>
internal static class BenchLossCommand
{
    public static Command Create()
    {
        Option<long[]> vocabularies = ListOption.Numbers(
            "--vocabularies",
            "Tokens of each vocabulary",
            [256, 4096, 32768]
        );
        Option<long> rows = new Option<long>("--rows")
        {
            Description = "Rows",
            DefaultValueFactory = _ => 8192,
        }.AtLeastOne();
        Option<long> channels = new Option<long>("--d-model")
        {
            Description = "Channels of a row",
            DefaultValueFactory = _ => 512,
        }.AtLeastOne();
        Option<long?> tileRows = new Option<long?>("--tile-rows")
        {
            Description = "Most rows of a tile; default: as many as training takes",
        }.AtLeastOne();
        Option<string> dtype = BenchOptions.ComputeType();
        Option<int?> threads = BenchOptions.Threads();
        Option<int> rounds = BenchOptions.Rounds(5).AtLeastOne();
        Option<string?> markdown = OutputFile.Markdown();
        var command = new Command(
            "loss",
            "The loss with its gradients, tile by tile and with the logits of all rows at once"
        )
        {
            vocabularies,
            rows,
            channels,
            tileRows,
            dtype,
            threads,
            rounds,
            markdown,
        };
        command.SetAction(parsed =>
            RankProgram.Run(runtime =>
            {
                string settings = BenchCommand.ApplyToOneProcess(runtime, "loss", parsed.GetValue(threads));
                var benchmark = new LossBenchmark(
                    parsed.GetValue(rows),
                    parsed.GetValue(channels),
                    BenchOptions.Types[parsed.GetValue(dtype)!],
                    parsed.GetValue(tileRows),
                    parsed.GetValue(rounds)
                );
                string heading =
                    $"{benchmark.Rows} rows, d_model {benchmark.Channels}, {parsed.GetValue(dtype)}; "
                    + $"{BenchDevice.Cpu.Name}, {settings}";
                List<string> table = Measure(benchmark, heading, parsed.GetValue(vocabularies)!);
                OutputFile.Write("--markdown", parsed.GetValue(markdown), () =>
                    $"{heading}:\n\n{string.Join('\n', table)}\n"
                );
            })
        );
        return command;
    }

    // Prints each vocabulary's line of the table as soon as it is measured.
    private static List<string> Measure(LossBenchmark benchmark, string heading, long[] vocabularies)
    {
        var table = new List<string>
        {
            "| vocabulary | tiled | all rows at once | share of its time | memory, tiled | all rows at once |",
            "| ---: | ---: | ---: | ---: | ---: | ---: |",
        };
        Console.WriteLine($"{heading}\n\n{string.Join('\n', table)}");
        foreach (long vocabulary in vocabularies)
        {
            LossTimes times = benchmark.Run(vocabulary);
            table.Add(
                $"| {vocabulary} | {times.TiledSeconds * 1e3:F0} ms | "
                    + $"{times.PlainSeconds * 1e3:F0} ms | "
                    + $"{100 * times.TiledSeconds / times.PlainSeconds:F0} % | "
                    + $"{Megabytes(times.TiledBytes)} | {Megabytes(times.PlainBytes)} |"
            );
            Console.WriteLine(table[^1]);
            MemoryAllocator.Trim();
        }

        return table;
    }

    private static string Megabytes(long? bytes) => bytes is { } number ? $"{number >> 20} MiB" : "";
}
