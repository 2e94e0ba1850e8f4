using System.CommandLine;
using LongNet.Core;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Benchmarks;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Measuring;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Commands;

/// <summary>longnet bench collectives: what communication costs between the ranks that mpiexec started.</summary>
internal static class BenchCollectivesCommand
{
    // Of one rank; the ranks of a machine have as many buffers.
    private const long LargestBytes = 16L << 30;

    private static readonly string[] Types = [TypeNames.Float32, TypeNames.BFloat16];

    public static Command Create()
    {
        string[] names = [.. CollectiveOperation.All.Select(operation => operation.Name)];
        Option<string[]> sizes = ListOption.Texts(
            "--sizes",
            "Sizes, as nccl-tests count them, with or without KB, MB or GB",
            "SIZE,SIZE,...",
            ["64KB", "1MB", "16MB", "64MB"],
            $"sizes from 1B to {ByteSize.Format(LargestBytes)}, such as 64KB or 16MB",
            text => ByteSize.Parse(text) is <= LargestBytes
        );
        Option<string[]> operations = ListOption.Texts(
            "--operations",
            "What is measured",
            "NAME,NAME,...",
            names,
            string.Join(", ", names),
            names.Contains
        );
        Option<string> dtype = new Option<string>("--dtype")
        {
            Description = "Element type: float32 or bfloat16",
            DefaultValueFactory = _ => TypeNames.Float32,
        }.MustBeOneOf(Types);
        Option<int> rounds = new Option<int>("--rounds")
        {
            Description = "Times that each is measured; the shortest and the one in the middle are told",
            DefaultValueFactory = _ => 20,
        }.AtLeastOne();
        Option<string?> json = OutputFile.Json(),
            markdown = OutputFile.Markdown();
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
                var benchmark = new CollectiveBenchmark(
                    runtime.World,
                    BenchOptions.Types[parsed.GetValue(dtype)!],
                    parsed.GetValue(rounds)
                );
                CollectiveReport report = Measure(
                    runtime,
                    benchmark,
                    [.. parsed.GetValue(operations)!.Select(CollectiveOperation.Named)],
                    [.. parsed.GetValue(sizes)!.Select(size => ByteSize.Parse(size)!.Value)]
                );
                RankConsensus.RunOnRoot(runtime.World, () =>
                {
                    OutputFile.Write("--json", parsed.GetValue(json), report.ToJson);
                    OutputFile.Write("--markdown", parsed.GetValue(markdown), report.ToMarkdown);
                });
            })
        );
        return command;
    }

    // Collective. Rank 0 prints each line as soon as it is measured.
    private static CollectiveReport Measure(
        DistributedRuntime runtime,
        CollectiveBenchmark benchmark,
        CollectiveOperation[] operations,
        long[] sizes
    )
    {
        string settings = ProcessSettings.Apply(new RuntimeConfig(), runtime.Environment).Describe();
        var report = new CollectiveReport(benchmark, runtime.Mpi!.Version, settings);
        if (runtime.Environment.IsRoot)
            Console.Write(report.Heading);
        foreach (CollectiveOperation operation in operations)
        {
            foreach (long size in sizes)
            {
                string line = report.Add(benchmark.Run(operation, size));
                if (runtime.Environment.IsRoot)
                    Console.WriteLine(line);
            }
        }

        return report;
    }
}
