using System.Text.Json;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Measuring;

namespace LongNet.Trainer.Tests.Commands;

public class BenchCollectivesTests
{
    [Theory]
    [InlineData(MpiKind.OpenMpi, "float32")]
    [InlineData(MpiKind.Mpich, "bfloat16")]
    public void Collectives_OnTwoRanks_TellsEveryOperationAndSize(MpiKind kind, string dtype)
    {
        using var folder = new TemporaryFolder();
        ProgramResult result = RankTests
            .Launcher(kind)
            .Run(
                2,
                Repository.LongNet,
                [
                    "bench",
                    "collectives",
                    "--sizes",
                    "8KB,1MB",
                    "--dtype",
                    dtype,
                    "--rounds",
                    "2",
                    "--json",
                    folder["bench.json"],
                    "--markdown",
                    folder["bench.md"],
                ]
            )
            .AssertSuccess();
        string type = dtype == "float32" ? "Float32" : "BFloat16";
        Assert.StartsWith(
            $"2 ranks, {type}, {(kind == MpiKind.OpenMpi ? "Open MPI v" : "MPICH ")}",
            result.Output,
            StringComparison.Ordinal
        );
        Assert.Contains("size: the larger buffer of a rank, as in nccl-tests", result.Output, StringComparison.Ordinal);

        string[] expected =
        [
            .. new[] { "all-gather", "reduce-scatter", "all-reduce", "broadcast", "all-to-all" }.SelectMany(operation =>
                new[] { $"{operation} 8KB", $"{operation} 1MB" }
            ),
        ];
        string[][] rows = [.. result.Output.TrimEnd().Split('\n')[^10..].Select(Cells)];
        Assert.Equal(expected, rows.Select(row => $"{row[0]} {row[1]}"));
        Assert.All(rows, row => Assert.Equal(6, row.Length));
        Assert.Equal(
            rows.Select(row => string.Join('|', row)),
            File.ReadAllLines(folder["bench.md"])[^10..].Select(line => string.Join('|', Cells(line.Trim('|'))))
        );

        JsonElement root = JsonDocument.Parse(File.ReadAllText(folder["bench.json"])).RootElement;
        Assert.Equal(2, root.GetProperty("ranks").GetInt32());
        Assert.Equal(type, root.GetProperty("dtype").GetString());
        JsonElement[] times = [.. root.GetProperty("times").EnumerateArray()];
        Assert.Equal(
            expected,
            times.Select(time =>
                $"{time.GetProperty("operation").GetString()} {ByteSize.Format(time.GetProperty("bytes").GetInt64())}"
            )
        );
        foreach (JsonElement time in times)
        {
            double best = time.GetProperty("best_seconds").GetDouble(),
                median = time.GetProperty("median_seconds").GetDouble();
            Assert.InRange(best, 1e-9, median);
            // Of two ranks: half of the buffer, all of it for an all-reduce (there and back) and a broadcast.
            double share = time.GetProperty("operation").GetString() is "all-reduce" or "broadcast" ? 1 : 0.5;
            Assert.Equal(
                time.GetProperty("bytes").GetInt64() * share / best,
                time.GetProperty("best_bus_bandwidth").GetDouble(),
                tolerance: 1
            );
        }
    }

    [Fact]
    public void Collectives_BusShareOfFourRanks_IsThatOfNcclTests() =>
        Assert.Equal(
            ["all-gather 0.75", "reduce-scatter 0.75", "all-reduce 1.5", "broadcast 1", "all-to-all 0.75"],
            CollectiveOperation.All.Select(operation => $"{operation.Name} {operation.BusShare(4)}")
        );

    [Theory]
    [InlineData(
        "--sizes=1MB,none",
        "--sizes has none, but takes sizes from 1B to 16GB, such as 64KB or 16MB, separated by commas."
    )]
    [InlineData(
        "--sizes=17GB",
        "--sizes has 17GB, but takes sizes from 1B to 16GB, such as 64KB or 16MB, separated by commas."
    )]
    [InlineData(
        "--operations=all-gather,gather",
        "--operations has gather, but takes all-gather, reduce-scatter, all-reduce, broadcast, all-to-all, "
            + "separated by commas."
    )]
    [InlineData("--dtype=float64", "--dtype is float64, but must be one of float32, bfloat16.")]
    [InlineData("--rounds=0", "--rounds is 0, but must be at least 1.")]
    [InlineData("--rounds=1", "bench collectives needs at least two ranks: mpiexec -n 2 longnet bench collectives.")]
    public void Collectives_Mistakes_AreNamed(string option, string message)
    {
        ProgramResult result = ProgramRun.ToEnd(
            TimeSpan.FromMinutes(2),
            Repository.LongNet,
            ["bench", "collectives", option]
        );
        Assert.StartsWith($"longnet: {message}\n", result.Error, StringComparison.Ordinal);
        Assert.Equal(2, result.ExitCode);
    }

    [Theory]
    [InlineData("64KB", 65536L)]
    [InlineData("1mb", 1048576L)]
    [InlineData("3", 3L)]
    [InlineData("12B", 12L)]
    [InlineData("0", null)]
    [InlineData("-1KB", null)]
    [InlineData("1.5MB", null)]
    [InlineData("9999999TB", null)]
    public void ByteSize_AsPeopleWriteIt_IsRead(string text, long? bytes) => Assert.Equal(bytes, ByteSize.Parse(text));

    private static string[] Cells(string line) => [.. line.Split('|').Select(cell => cell.Trim())];
}
