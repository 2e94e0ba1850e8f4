using System.Text.Json;
using LongNet.Core.Serialization;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>
/// parallel.shard_optimizer: the same numbers with the optimizer state divided, and checkpoints in shards.
/// </summary>
public sealed class ShardedOptimizerTests : IDisposable
{
    private const string Middle = "checkpoints/step-00000010",
        End = "checkpoints/step-00000020";

    // A batch that 1, 2 and 3 ranks share; dropout, so that random choices are part of the proof.
    private static readonly string[] Settings =
    [
        "--set",
        "checkpoint.every_steps=10",
        "--set",
        "model.dropout=0.1",
        "--set",
        "training.batch_size=12",
    ];

    private static readonly string[] Sharded = [.. Settings, "--set", "parallel.shard_optimizer=true"];

    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Theory]
    [InlineData(MpiKind.OpenMpi, 1, 2, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.OpenMpi, 3, 1, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.Mpich, 2, 2)]
    public void Train_Sharded_EqualsTheUnshardedRunWithTheStateDivided(MpiKind kind, int data, int sequence)
    {
        int ranks = data * sequence;
        ProgramResult whole = TrainingJob.RanksAgree(kind, data, sequence, folder["whole"], Settings);
        ProgramResult sharded = TrainingJob.RanksAgree(kind, data, sequence, folder["sharded"], Sharded);

        // The same sums of gradients; slices that end elsewhere than parameters round the last bit of some elements
        // differently.
        foreach (string key in new[] { "loss", "grad_norm", "eval_loss" })
            Compare.AssertClose(
                TrainingJob.Values(folder["sharded"], key),
                TrainingJob.Values(folder["whole"], key),
                1e-6,
                key
            );
        AssertSameModel(folder["whole"], folder["sharded"]);

        long elements = StateElements(Path.Combine(folder["whole"], End, "optimizer-00000-of-00001.safetensors"));
        string[] shards =
        [
            .. Enumerable.Range(0, ranks).Select(rank => $"optimizer-{rank:D5}-of-{ranks:D5}.safetensors"),
        ];
        Assert.Equal(
            ["model.safetensors", .. shards, "state.json"],
            Directory
                .GetFiles(Path.Combine(folder["sharded"], End))
                .Select(Path.GetFileName)
                .Order(StringComparer.Ordinal)
        );
        // Two blocks and the rest, of which every rank has its part to one element, of both moments.
        long[] parts = [.. shards.Select(shard => StateElements(Path.Combine(folder["sharded"], End, shard)))];
        Assert.Equal(elements, parts.Sum());
        Assert.All(parts, part => Assert.InRange(part, elements / (double)ranks - 6, elements / (double)ranks + 6));
        AssertTold(whole, elements);
        AssertTold(sharded, parts[0]);

        Assert.Equal(
            (false, 1),
            (
                Manifest(folder["whole"]).GetProperty("optimizer_sharded").GetBoolean(),
                Manifest(folder["whole"]).GetProperty("optimizer_shards").GetInt32()
            )
        );
        Assert.Equal(
            (true, ranks),
            (
                Manifest(folder["sharded"]).GetProperty("optimizer_sharded").GetBoolean(),
                Manifest(folder["sharded"]).GetProperty("optimizer_shards").GetInt32()
            )
        );
    }

    [Fact]
    public void Resume_OnTheSameRanks_IsBitwiseTheSame()
    {
        string[] settings = [.. Sharded, "--set", "training.batch_size=4"];
        TrainingJob.RanksAgree(MpiKind.OpenMpi, 1, 2, folder["straight"], settings);
        TrainingJob.RanksAgree(MpiKind.OpenMpi, 1, 2, folder["stopped"], [.. settings, "--steps", "10"]);
        ProgramResult resumed = TrainingJob.RanksAgree(
            MpiKind.OpenMpi,
            1,
            2,
            folder["stopped"],
            [.. settings, "--resume", "auto"]
        );
        Assert.DoesNotContain("warning", resumed.Output, StringComparison.Ordinal);
        Assert.DoesNotContain("note", resumed.Output, StringComparison.Ordinal);
        foreach (
            string file in new[]
            {
                "model.safetensors",
                "optimizer-00000-of-00002.safetensors",
                "optimizer-00001-of-00002.safetensors",
            }
        )
            Assert.Equal(
                File.ReadAllBytes(Path.Combine(folder["straight"], End, file)),
                File.ReadAllBytes(Path.Combine(folder["stopped"], End, file))
            );
        foreach (string key in new[] { "loss", "grad_norm", "eval_loss" })
            Assert.Equal(TrainingJob.Values(folder["straight"], key), TrainingJob.Values(folder["stopped"], key));
    }

    [Fact]
    public void Resume_OnOtherRanksShardedOrNot_AgreesToRounding()
    {
        TrainingJob.RanksAgree(MpiKind.OpenMpi, 2, 1, folder["two"], Sharded);
        double[] straight = TrainingJob.Values(folder["two"], "loss")[10..];
        Assert.Equal(10, straight.Length);
        ResumeOn(3, true, folder["two"]);
        ResumeOn(1, true, folder["two"]);
        ProgramResult result = ResumeOn(2, false, folder["two"]);
        Assert.Contains(result.Output.Split('\n'), line =>
            line.StartsWith("note: it was written with ", StringComparison.Ordinal)
            && line.EndsWith(
                ", with parallel.shard_optimizer, so numbers agree with that run's to rounding, not to the bit.",
                StringComparison.Ordinal
            )
        );

        // And from one file into shards.
        TrainingJob.RanksAgree(MpiKind.OpenMpi, 2, 1, folder["one file"], [.. Settings, "--steps", "10"]);
        ResumeOn(3, true, folder["one file"]);

        ProgramResult ResumeOn(int ranks, bool sharded, string from)
        {
            string what = $"{(sharded ? "shards" : "no shards")} on {ranks} from {Path.GetFileName(from)}";
            ProgramResult result = TrainingJob.RanksAgree(
                ranks == 1 ? MpiKind.None : MpiKind.OpenMpi,
                ranks,
                1,
                folder[what],
                [.. sharded ? Sharded : Settings, "--resume", Path.Combine(from, Middle)]
            );
            // float32 sums in another order, over 10 steps.
            Compare.AssertClose(TrainingJob.Values(folder[what], "loss"), straight, 1e-5, $"losses with {what}");
            AssertSameModel(folder["two"], folder[what]);
            return result;
        }
    }

    [Fact]
    public void Resume_FromADamagedShard_NamesIt()
    {
        TrainingJob.RanksAgree(MpiKind.OpenMpi, 2, 1, folder["run"], [.. Sharded, "--steps", "1"]);
        string checkpoint = Path.Combine(folder["run"], "checkpoints/step-00000001"),
            shard = "optimizer-00001-of-00002.safetensors";
        byte[] bytes = File.ReadAllBytes(Path.Combine(checkpoint, shard));
        bytes[^1] ^= 1;
        File.WriteAllBytes(Path.Combine(checkpoint, shard), bytes);
        AssertRefused("its content is not what was written (SHA-256 differs)");
        File.WriteAllBytes(Path.Combine(checkpoint, shard), bytes[..^1]);
        AssertRefused($"it has {bytes.Length - 1} bytes, and {bytes.Length} were written");
        File.Delete(Path.Combine(checkpoint, shard));
        AssertRefused("it is missing");

        void AssertRefused(string problem)
        {
            ProgramResult result = RankTests
                .Launcher(MpiKind.OpenMpi)
                .Run(
                    3,
                    Repository.LongNet,
                    TrainingJob.RanksAgreeArguments(3, 1, folder["run"], [.. Sharded, "--resume", "auto"])
                );
            Assert.Equal(
                $"longnet: No checkpoint in {Path.GetDirectoryName(checkpoint)} is whole: step-00000001: "
                    + $"{shard}: {problem}. "
                    + "Start from another run's with --resume PATH, or start anew with another --output.\n",
                Told(result)
            );
            Assert.Equal(2, result.ExitCode);
        }
    }

    [Fact]
    public void Save_WhereOneRankCannotWrite_IsToldByAllAndTheLastCheckpointResumes()
    {
        TrainingJob.RanksAgree(MpiKind.OpenMpi, 2, 1, folder["0/run"], [.. Sharded, "--steps", "1"]);
        // One run directory, whose checkpoints lie in each rank's own folder, as where each machine has a disk of its
        // own.
        Directory.CreateDirectory(folder["0/own"]);
        Directory.CreateDirectory(folder["1/own/checkpoints"]);
        Directory.CreateSymbolicLink(folder["1/run"], folder["0/run"]);
        Directory.Move(folder["0/run/checkpoints"], folder["0/own/checkpoints"]);
        Directory.CreateSymbolicLink(folder["0/run/checkpoints"], "/proc/self/cwd/own/checkpoints");
        const string Partial = "run/checkpoints/.step-00000002.partial",
            Shard = "optimizer-00001-of-00002.safetensors",
            Last =
                " Older checkpoints are untouched. It was the run's last: free space or mend permissions, "
                + "then go on with --resume auto.\n";

        Assert.Equal(
            $"longnet: Rank 0: The checkpoint of step 2 cannot be written to run/checkpoints: {Shard}, which "
                + "another rank has written, is not to be seen by rank 0 in "
                + $"{Partial}: the run directory must lie on a file system that all ranks share.{Last}",
            Fail()
        );

        string ofRank1 = folder["1/own/checkpoints/.step-00000002.partial"];
        File.Delete(Path.Combine(ofRank1, Shard));
        Directory.CreateDirectory(Path.Combine(ofRank1, Shard));
        Assert.Equal(
            "longnet: Rank 1: The checkpoint of step 2 cannot be written to run/checkpoints: Access to the "
                + $"path '{folder[$"1/{Partial}/{Shard}"]}' is denied.{Last}",
            Fail()
        );

        // The link leads nowhere from here, which for Directory is nothing to delete.
        File.Delete(folder["0/run/checkpoints"]);
        Directory.Move(folder["0/own/checkpoints"], folder["0/run/checkpoints"]);
        TrainingJob.RanksAgree(
            MpiKind.OpenMpi,
            2,
            1,
            folder["0/run"],
            [.. Sharded, "--steps", "2", "--resume", "auto"]
        );
        Assert.Equal(
            ["BEST", "LATEST", "step-00000001", "step-00000002"],
            Directory
                .GetFileSystemEntries(folder["0/run/checkpoints"])
                .Select(Path.GetFileName)
                .Order(StringComparer.Ordinal)
        );
        Assert.Equal("step-00000002\n", File.ReadAllText(folder["0/run/checkpoints/LATEST"]));

        string Fail()
        {
            ProgramResult result = InOwnFolders([.. Sharded, "--steps", "2", "--resume", "auto"]);
            Assert.Equal(2, result.ExitCode);
            Assert.Equal("step-00000001\n", File.ReadAllText(folder["0/own/checkpoints/LATEST"]));
            return Told(result);
        }
    }

    [Fact]
    public void Train_WhereRanksDoNotShareTheRunDirectory_IsRefusedAtTheStart()
    {
        Directory.CreateDirectory(folder["0"]);
        Directory.CreateDirectory(folder["1/run"]);
        ProgramResult result = InOwnFolders(Sharded);
        Assert.Equal(
            $"longnet: Rank 1: The run directory {folder["1/run"]} is not the one that rank 0 writes to. It "
                + "must lie on a file system that all ranks share when "
                + "parallel.shard_optimizer is on.\n",
            Told(result)
        );
        Assert.Equal(2, result.ExitCode);
        Assert.Empty(Directory.GetFileSystemEntries(folder["0"]));
    }

    // Every rank in the folder of its number, with a run directory relative to that.
    private ProgramResult InOwnFolders(string[] more) =>
        RankTests
            .Launcher(MpiKind.OpenMpi)
            .Run(
                2,
                "bash",
                [
                    "-c",
                    "cd \"$0/$OMPI_COMM_WORLD_RANK\" && exec \"$@\"",
                    folder.Path,
                    Repository.LongNet,
                    .. TrainingJob.RanksAgreeArguments(2, 1, "run", more),
                ]
            );

    // To a thousandth of one step, which moves an element by the learning rate of 1e-3: AdamW scales all gradients to
    // that, those of the biases of keys too, which are little more than rounding.
    private static void AssertSameModel(string expectedRun, string actualRun)
    {
        using SafetensorsReader expected = SafetensorsReader.Open(Path.Combine(expectedRun, End, "model.safetensors"));
        using SafetensorsReader actual = SafetensorsReader.Open(Path.Combine(actualRun, End, "model.safetensors"));
        Assert.Equal(expected.Names, actual.Names);
        foreach (string name in expected.Names)
        {
            using var scope = NewDisposeScope();
            Compare.AssertClose(
                actual.Read(name),
                expected.Read(name),
                1e-6,
                $"{name} in {Path.GetFileName(actualRun)}",
                floor: 1
            );
        }
    }

    private static long StateElements(string file)
    {
        using SafetensorsReader reader = SafetensorsReader.Open(file);
        return reader
            .Names.Where(name => name != "step")
            .Sum(name => reader.Shape(name).Aggregate(1L, (product, size) => product * size));
    }

    // Float32, and the step count.
    private static void AssertTold(ProgramResult run, long elements) =>
        Assert.Contains(
            $" parameters, optimizer state {(4 + 4 * elements) / 1e6:F1} MB per rank, mesh ",
            run.Output,
            StringComparison.Ordinal
        );

    private static JsonElement Manifest(string run) =>
        JsonDocument.Parse(File.ReadAllText(Path.Combine(run, End, "state.json"))).RootElement;

    // Open MPI adds lines of its own where ranks end with a code.
    private static string Told(ProgramResult result) =>
        string.Concat(
            result
                .Error.Split('\n')
                .Where(line => line.StartsWith("longnet:", StringComparison.Ordinal))
                .Select(line => line + "\n")
        );
}
