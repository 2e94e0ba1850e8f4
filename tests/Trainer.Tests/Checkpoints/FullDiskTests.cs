using System.Diagnostics;
using System.Text.RegularExpressions;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Reporting;
using LongNet.Trainer.Runs;
using LongNet.Trainer.Storage;
using LongNet.Trainer.Tests.Ranks;

namespace LongNet.Trainer.Tests.Checkpoints;

/// <summary>Real runs on a real disk that is full.</summary>
public class FullDiskTests
{
    // A checkpoint of configs/ranks-agree.yaml takes 1.4 MB.
    private const int DiskMegabytes = 16;

    [Fact]
    public void Train_WhereTheDiskIsFullForAWhile_WarnsAndGoesOnAndLosesNoLine()
    {
        const int Steps = 40;
        using SmallDisk disk = SmallDisk.Mount(DiskMegabytes);
        string output = Path.Combine(disk.Path, "run"),
            metrics = Path.Combine(output, "metrics.jsonl"),
            checkpoints = Path.Combine(output, "checkpoints");
        using ProgramRun run = RankTests
            .Launcher(MpiKind.None)
            .Start(1, Repository.LongNet, Arguments(output, Steps, saveEvery: 20, required: false));
        Await(run, () => File.Exists(metrics) && new FileInfo(metrics).Length > 0, "no step was done");
        disk.Fill();
        // Steps up to 20 are more lines than the file's last page takes: it is torn within one.
        Await(run, () => Directory.Exists(checkpoints), "no checkpoint was tried");
        // Space is asked for next.
        Thread.Sleep(TimeSpan.FromSeconds(0.1));
        long torn = new FileInfo(metrics).Length;
        Assert.Equal(0, torn % 4096);
        Assert.False(File.ReadAllText(metrics).EndsWith('\n'));
        disk.Free();

        ProgramResult result = run.Wait(TimeSpan.FromMinutes(2)).AssertSuccess();
        Assert.Equal(
            [
                $"warning: {metrics} cannot be written: No space left on device : '{metrics}'. Lines wait in "
                    + "memory, and no checkpoint can be saved until they can be.",
                $"warning: The checkpoint of step 20 cannot be written to {checkpoints}: It needs 2 MB, and "
                    + "the disk has 0 MB free. Older checkpoints are untouched. "
                    + "Training goes on (checkpoint.required: true would end it).",
            ],
            result.Output.Split('\n').Where(line => line.StartsWith("warning: ", StringComparison.Ordinal))
        );
        Assert.Equal(
            Enumerable.Range(1, Steps).Select(step => (double)step),
            TrainingJob.Values(output, "loss", "step")
        );
        Assert.Equal([Steps], new CheckpointStore(checkpoints).Steps());
        Assert.Equal(Steps, new RunDirectory(output).FindStart("auto")!.Manifest.Step);
        Assert.Equal(
            ["LATEST", "step-00000040"],
            Directory.GetFileSystemEntries(checkpoints).Select(Path.GetFileName).Order(StringComparer.Ordinal)
        );
    }

    [Fact]
    public void Train_WhereTheDiskIsFullAndTheCheckpointRequired_EndsInOneSentenceAndGoesOnLater()
    {
        const int Steps = 6;
        using SmallDisk disk = SmallDisk.Mount(DiskMegabytes);
        // Enough for the first checkpoint, the configuration and the metrics.
        disk.Fill(but: 2_000_000);
        string output = Path.Combine(disk.Path, "run"),
            checkpoints = Path.Combine(output, "checkpoints");
        ProgramResult Train(params string[] more) =>
            RankTests
                .Launcher(MpiKind.None)
                .Run(1, Repository.LongNet, [.. Arguments(output, Steps, saveEvery: 2, required: true), .. more]);
        ProgramResult full = Train();
        Assert.Equal(2, full.ExitCode);
        Assert.Matches(
            $"^longnet: The checkpoint of step 4 cannot be written to {Regex.Escape(checkpoints)}: It needs 2 "
                + "MB, and the disk has 1 MB free\\. Older checkpoints are untouched\\. "
                + "It is required \\(checkpoint\\.required\\): free space or mend permissions, then go on with "
                + "--resume auto\\.\n$",
            full.Error
        );

        disk.Free();
        ProgramResult resumed = Train("--resume", "auto").AssertSuccess();
        Assert.Contains("(step 2, written by", resumed.Output, StringComparison.Ordinal);
        Assert.Equal(
            Enumerable.Range(1, Steps).Select(step => (double)step),
            TrainingJob.Values(output, "loss", "step")
        );
        Assert.Equal([2, 4, Steps], new CheckpointStore(checkpoints).Steps());
    }

    [Fact]
    public void Train_WhereTheDiskIsFullForWhatIsOffloaded_EndsAllRanksInOneSentenceBeforeTheFirstStep()
    {
        using SmallDisk disk = SmallDisk.Mount(1);
        using var folder = new TemporaryFolder();
        disk.Fill(but: 300_000);
        string offload = Path.Combine(disk.Path, "offload");
        ProgramResult Train(params string[] more) =>
            RankTests
                .Launcher(MpiKind.OpenMpi)
                .Run(
                    2,
                    Repository.LongNet,
                    TrainingJob.RanksAgreeArguments(
                        1,
                        2,
                        folder["run"],
                        [
                            "--steps",
                            "1",
                            "--set",
                            "training.micro_batch_size=4",
                            "--set",
                            "memory.recompute=full",
                            .. more,
                        ]
                    )
                );
        string[] offloads = ["--set", "memory.offload=disk", "--set", $"memory.offload_directory={offload}"];
        ProgramResult full = Train(offloads);
        Assert.Equal(2, full.ExitCode);
        // Two blocks of 4 · 256 rows of 64 channels; what one rank finds free depends on how far the other has come.
        // Open MPI adds lines of its own.
        Assert.Matches(
            $"^longnet: Activations cannot be kept in {Regex.Escape(offload)}: those of this rank need 0\\.5 "
                + "MB, and the disk has 0\\.[0-3] MB free\\. "
                + "Choose a folder on a disk with more space \\(memory\\.offload_directory\\), or keep them in "
                + "memory \\(memory\\.offload: none\\)\\.$",
            Assert.Single(full.Error.Split('\n'), line => line.StartsWith("longnet: ", StringComparison.Ordinal))
        );
        Assert.DoesNotContain("   at ", full.Error, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFileSystemEntries(offload));
        Assert.False(File.Exists(folder["run/metrics.jsonl"]));

        disk.Free();
        Train(offloads).AssertSuccess();
        Assert.Empty(Directory.GetFileSystemEntries(offload));
        Assert.Single(TrainingJob.Values(folder["run"], "loss"));
    }

    // The space seems to be there when it is asked for, and is not when it is taken.
    [Theory]
    [InlineData(1_000_000)]
    [InlineData(6_000_000)]
    public void Save_WhereTheDiskFillsUpMeanwhile_TellsAndLeavesNothing(long free)
    {
        using SmallDisk disk = SmallDisk.Mount(DiskMegabytes);
        using TorchSharp.DisposeScope scope = TorchSharp.torch.NewDisposeScope();
        var store = new CheckpointStore(Path.Combine(disk.Path, "checkpoints"));
        SavedCheckpoint.Save(store, SavedCheckpoint.Part(10));
        disk.Fill(free);
        // Two files of 4 MB each: none has space, or one has.
        CheckpointPart part = SavedCheckpoint.Part(20);
        part = part with
        {
            Model = [("weight", TorchSharp.torch.ones(1_000_000))],
            Optimizer =
            [
                .. part.Optimizer.Take(1),
                new StateSlice("exp_avg.weight", null, TorchSharp.torch.ones(1_000_000)),
            ],
        };
        string message = Assert
            .Throws<Distributed.Collectives.AgreedUserException>(() =>
                SavedCheckpoint.Save(store, part, files: new WasFree())
            )
            .Message;
        Assert.Matches(
            $"^The checkpoint of step 20 cannot be written to {Regex.Escape(store.Folder)}: No space left "
                + $"on device: \\S+safetensors needs 4000[0-9]{{3}} bytes\\. Older",
            message
        );
        Assert.Equal(
            ["LATEST", "step-00000010"],
            Directory.GetFileSystemEntries(store.Folder).Select(Path.GetFileName).Order(StringComparer.Ordinal)
        );
        CheckpointStore.Verify(store.PathOf(10));
        disk.Free();
        SavedCheckpoint.Save(store, part);
        CheckpointStore.Verify(store.PathOf(20));
    }

    [Fact]
    public void MetricsWriter_WhereTheDiskIsFullForAWhile_KeepsEveryLineInOrder()
    {
        using SmallDisk disk = SmallDisk.Mount(1);
        string path = Path.Combine(disk.Path, "metrics.jsonl");
        using (var writer = new MetricsWriter(path, null))
        {
            writer.Write(new EvaluationMetrics(1, 1));
            disk.Fill();
            int step = 1;
            while (writer.Problem is null)
                writer.Write(new EvaluationMetrics(++step, 1));
            // A file takes space by pages.
            Assert.Equal(4096, new FileInfo(path).Length);
            Assert.StartsWith("No space left on device", writer.Problem, StringComparison.Ordinal);
            for (int more = 0; more < 100; more++)
                writer.Write(new EvaluationMetrics(++step, 1));
            Assert.Equal(
                $"{path} cannot be written: {writer.Problem}",
                Assert.Throws<Core.UserException>(writer.Sync).Message
            );

            disk.Free();
            writer.Sync();
            Assert.Null(writer.Problem);
            writer.Write(new EvaluationMetrics(++step, 1));
            Assert.Equal(
                string.Concat(
                    Enumerable
                        .Range(1, step)
                        .Select(at =>
                            $$"""{"step":{{at}},"eval_loss":1,"eval_bits_per_byte":1.4426950408889634}""" + "\n"
                        )
                ),
                File.ReadAllText(path)
            );
        }
    }

    // A disk that others fill as soon as it has been asked.
    private sealed class WasFree : FileOperations
    {
        public override long AvailableBytes(string folder) => long.MaxValue;
    }

    private static IEnumerable<string> Arguments(string output, int steps, int saveEvery, bool required) =>
        TrainingJob.RanksAgreeArguments(
            1,
            1,
            output,
            "--set",
            $"training.steps={steps}",
            "--set",
            $"checkpoint.every_steps={saveEvery}",
            "--set",
            "evaluation.every_steps=0",
            "--set",
            $"checkpoint.required={(required ? "true" : "false")}"
        );

    private static void Await(ProgramRun run, Func<bool> condition, string otherwise)
    {
        var clock = Stopwatch.StartNew();
        while (!condition())
        {
            Assert.False(run.HasExited, $"the run ended: {otherwise}");
            Assert.True(clock.Elapsed < TimeSpan.FromMinutes(2), otherwise);
            Thread.Sleep(5);
        }
    }
}
