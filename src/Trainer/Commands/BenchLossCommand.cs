using System.CommandLine;
using LongNet.Core.Native;
using LongNet.Trainer.Benchmarks;

namespace LongNet.Trainer.Commands;

/// <summary>longnet bench loss: what it costs that logits of all rows never exist.</summary>
internal static class BenchLossCommand
{
    public static Command Create()
    {
        var vocabularies = BenchCommand.Numbers("--vocabularies", "Tokens of each vocabulary", [256, 4096, 32768]);
        var rows = BenchCommand.AtLeastOne(
            new Option<long>("--rows") { Description = "Rows", DefaultValueFactory = _ => 8192 }
        );
        var channels = BenchCommand.AtLeastOne(
            new Option<long>("--d-model") { Description = "Channels of a row", DefaultValueFactory = _ => 512 }
        );
        var tileRows = BenchCommand.AtLeastOne(
            new Option<long?>("--tile-rows") { Description = "Most rows of a tile; default: as many as training takes" }
        );
        var (dtype, threads) = (BenchCommand.ComputeType(), BenchCommand.Threads());
        var rounds = BenchCommand.AtLeastOne(
            new Option<int>("--rounds")
            {
                Description = "Times that each is measured; the shortest counts",
                DefaultValueFactory = _ => 5,
            }
        );
        var markdown = new Option<string?>("--markdown")
        {
            Description = "Writes the table to this file too",
            HelpName = "FILE",
        };
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
                string settings = BenchCommand.OneProcess(runtime, "loss", parsed.GetValue(threads));
                var benchmark = new LossBenchmark(
                    parsed.GetValue(rows),
                    parsed.GetValue(channels),
                    BenchCommand.Types[parsed.GetValue(dtype)!],
                    parsed.GetValue(tileRows),
                    parsed.GetValue(rounds)
                );
                string heading =
                    $"{benchmark.Rows} rows, d_model {benchmark.Channels}, {parsed.GetValue(dtype)}; "
                    + $"{BenchDevice.Cpu.Name}, {settings}";
                var table = new List<string>
                {
                    "| vocabulary | tiled | all rows at once | share of its time | memory, tiled | all rows at once |",
                    "| ---: | ---: | ---: | ---: | ---: | ---: |",
                };
                Console.WriteLine($"{heading}\n\n{string.Join('\n', table)}");
                foreach (long vocabulary in parsed.GetValue(vocabularies)!)
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

                BenchCommand.Write("--markdown", parsed.GetValue(markdown), () =>
                    $"{heading}:\n\n{string.Join('\n', table)}\n"
                );
            })
        );
        return command;
    }

    private static string Megabytes(long? bytes) => bytes is { } number ? $"{number >> 20} MiB" : "";
}
