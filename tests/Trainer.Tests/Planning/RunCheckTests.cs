using System.Text.Json;
using LongNet.Core;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Planning;

namespace LongNet.Trainer.Tests.Planning;

/// <summary>Predictions beside what real runs measure.</summary>
[Trait("Category", "machine")]
public class RunCheckTests
{
    // Holes of the system's allocator are up to half of all, and differ from run to run by a tenth of all; the preset
    // knows this machine's runtime to some megabytes.
    private const double MemoryTolerance = 0.15;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void BytesSent_OfTwoRanks_AreThosePredicted(bool shardOptimizer)
    {
        using var folder = new TemporaryFolder();
        string[] settings =
        [
            "--set",
            $"parallel.shard_optimizer={(shardOptimizer ? "true" : "false")}",
            "--set",
            "training.micro_batch_size=2",
        ];
        JsonElement check = Train(
            folder,
            2,
            ["--config", "quickstart", .. settings, "--set", "training.steps=2", "--set", "evaluation.every_steps=0"]
        );
        Assert.Equal(
            check.GetProperty("measured").GetProperty("bytes_sent").GetDouble(),
            check.GetProperty("predicted").GetProperty("bytes_sent").GetDouble()
        );
    }

    [Fact]
    [Trait("Category", "slow")]
    public void BytesSent_OfFourRanksWithOffsetsThatDiffer_AreThosePredicted()
    {
        using var folder = new TemporaryFolder();
        JsonElement check = Train(
            folder,
            4,
            ["--config", "ranks-agree", "--set", "training.steps=2", "--set", "evaluation.every_steps=0"]
        );
        Assert.Equal(
            check.GetProperty("measured").GetProperty("bytes_sent").GetDouble(),
            check.GetProperty("predicted").GetProperty("bytes_sent").GetDouble()
        );
    }

    [Theory]
    [Trait("Category", "slow")]
    [InlineData("float32", "none")]
    [InlineData("bfloat16", "full")]
    public void PeakMemory_OfARun_IsThatPredicted(string precision, string recompute)
    {
        using var folder = new TemporaryFolder();
        JsonElement check = Train(
            folder,
            1,
            [
                "--config",
                "longnet-small",
                "--set",
                "training.steps=40",
                "--set",
                "evaluation.every_steps=0",
                "--set",
                "checkpoint.every_steps=0",
                "--set",
                $"precision.compute={precision}",
                "--set",
                $"memory.recompute={recompute}",
            ]
        );
        JsonElement measured = check.GetProperty("measured").GetProperty("peak_memory_bytes");
        Assert.SkipWhen(measured.ValueKind == JsonValueKind.Null, "this version does not write peak_memory_bytes");
        double peak = measured.GetDouble();
        Assert.InRange(
            check.GetProperty("predicted").GetProperty("peak_memory_bytes").GetDouble(),
            (1 - MemoryTolerance) * peak,
            (1 + MemoryTolerance) * peak
        );
    }

    [Fact]
    public void Check_OfMetrics_TakesTheMedianOfSettledSteps()
    {
        using var folder = new TemporaryFolder();
        double[] seconds = [90, 80, 70, 3, 1, 2, 5];
        folder.Write(
            "metrics.jsonl",
            string.Concat(
                seconds.Select(
                    (each, step) =>
                        $"{{\"step\":{step + 1},\"step_seconds\":{each},\"bytes_sent\":7,"
                        + $"\"peak_memory_bytes\":{100 + step}}}\n"
                        + $"{{\"step\":{step + 1},\"eval_loss\":1}}\n"
                )
            )
        );
        Assert.Equal(new RunCheck(4, 2.5, 106, 7), RunCheck.Read(folder.Path));
        folder.Write(
            "metrics.jsonl",
            "{\"step\":1,\"step_seconds\":4,\"bytes_sent\":0}\n{\"step\":2,\"step_seconds\":3,\"bytes_sent\":0}\n"
        );
        Assert.Equal(new RunCheck(1, 3, null, 0), RunCheck.Read(folder.Path));
    }

    [Fact]
    public void Check_OfWhatIsNoRun_SaysSo()
    {
        using var folder = new TemporaryFolder();
        Assert.Equal(
            $"--check {folder.Path} is no run's folder: it has no config.yaml. Give the folder that longnet "
                + "train --output names.",
            Assert.Throws<UserException>(() => RunCheck.ConfigOf(folder.Path, [])).Message
        );
        folder.Write("metrics.jsonl", "");
        Assert.Equal(
            $"{folder["metrics.jsonl"]} has no steps to compare with: let the run do some.",
            Assert.Throws<UserException>(() => RunCheck.Read(folder.Path)).Message
        );
        folder.Write("metrics.jsonl", "{\"step_seconds\":\"long\",\"bytes_sent\":0}\n");
        Assert.StartsWith(
            $"{folder["metrics.jsonl"]} cannot be read: ",
            Assert.Throws<UserException>(() => RunCheck.Read(folder.Path)).Message,
            StringComparison.Ordinal
        );
    }

    private static JsonElement Train(TemporaryFolder folder, int ranks, string[] arguments)
    {
        string run = folder["run"];
        RankTests
            .Launcher(ranks == 1 ? MpiKind.None : MpiKind.OpenMpi)
            .Run(
                ranks,
                Repository.LongNet,
                ["train", .. arguments, "--set", $"data.path=[{Repository.PathOf("configs/text")}]", "--output", run]
            )
            .AssertSuccess();
        ProgramResult result = ProgramRun.ToEnd(
            TimeSpan.FromMinutes(1),
            Repository.LongNet,
            ["plan", "--check", run, "--machine", "desk", "--json"]
        );
        result.AssertSuccess();
        return JsonElement.Parse(result.Output);
    }
}
