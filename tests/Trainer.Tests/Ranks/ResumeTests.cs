using System.Diagnostics;
using LongNet.Core.Serialization;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>A run that is stopped and resumed equals the one that never stopped.</summary>
public class ResumeTests
{
    // Dropout, so that random choices are part of the proof.
    private static readonly string[] Settings =
    [
        "--set",
        "checkpoint.every_steps=10",
        "--set",
        "model.dropout=0.1",
        "--set",
        "training.batch_size=4",
    ];

    private const string Middle = "checkpoints/step-00000010",
        End = "checkpoints/step-00000020";

    [Theory]
    [InlineData(MpiKind.None, 1, 1)]
    [InlineData(MpiKind.OpenMpi, 1, 2, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.OpenMpi, 2, 2)]
    [InlineData(MpiKind.Mpich, 2, 1)]
    public void Resume_AfterAKillOnTheSameMesh_IsBitwiseTheSame(MpiKind kind, int data, int sequence)
    {
        using var folder = new TemporaryFolder();
        TrainingJob.RanksAgree(kind, data, sequence, folder["straight"], Settings);

        KillInStep15(kind, data, sequence, folder["killed"]);
        ProgramResult resumed = TrainingJob.RanksAgree(
            kind,
            data,
            sequence,
            folder["killed"],
            [.. Settings, "--resume", "auto"]
        );
        Assert.Contains(
            $"resuming from {folder["killed"]}/{Middle} (step 10, written by {data} data x {sequence} sequence ranks)",
            resumed.Output,
            StringComparison.Ordinal
        );
        Assert.DoesNotContain("warning", resumed.Output, StringComparison.Ordinal);

        foreach (string file in new[] { "model.safetensors", "optimizer-00000-of-00001.safetensors" })
        {
            Assert.Equal(
                File.ReadAllBytes(Path.Combine(folder["straight"], End, file)),
                File.ReadAllBytes(Path.Combine(folder["killed"], End, file))
            );
        }

        // Every step once, and with the same bits.
        foreach (string key in new[] { "loss", "grad_norm", "lr", "tokens", "eval_loss" })
            Assert.Equal(TrainingJob.Values(folder["straight"], key), TrainingJob.Values(folder["killed"], key));
        Assert.Equal(20, TrainingJob.Values(folder["killed"], "loss").Length);
        Assert.Equal("step-00000020\n", File.ReadAllText(Path.Combine(folder["killed"], "checkpoints/LATEST")));
        Assert.Equal(
            ["BEST", "LATEST", "step-00000010", "step-00000020"],
            Directory
                .GetFileSystemEntries(Path.Combine(folder["killed"], "checkpoints"))
                .Select(Path.GetFileName)
                .Order(StringComparer.Ordinal)
        );
    }

    [Fact]
    public void Resume_OnFewerRanks_AgreesToRounding()
    {
        // The keys' bias has no gradient but for rounding, which AdamW scales up; in a larger batch it averages out.
        string[] settings = [.. Settings, "--set", "training.batch_size=16"];
        using var folder = new TemporaryFolder();
        TrainingJob.RanksAgree(MpiKind.OpenMpi, 2, 2, folder["four"], settings);
        foreach (var (ranks, data, sequence) in new[] { (2, 1, 2), (2, 2, 1), (1, 1, 1) })
        {
            string output = folder[$"on {data}x{sequence}"];
            TrainingJob.RanksAgree(
                ranks == 1 ? MpiKind.None : MpiKind.OpenMpi,
                data,
                sequence,
                output,
                [.. settings, "--resume", Path.Combine(folder["four"], Middle)]
            );
            using SafetensorsReader expected = SafetensorsReader.Open(
                Path.Combine(folder["four"], End, "model.safetensors")
            );
            using SafetensorsReader actual = SafetensorsReader.Open(Path.Combine(output, End, "model.safetensors"));
            Assert.Equal(expected.Names, actual.Names);
            foreach (string name in expected.Names)
            {
                using var scope = NewDisposeScope();
                // float32 sums in another order, over 10 steps.
                Compare.AssertClose(actual.Read(name), expected.Read(name), 1e-5, $"{name} on {data}x{sequence}");
            }

            double[] straight = TrainingJob.Values(folder["four"], "loss")[10..];
            Assert.Equal(10, straight.Length);
            Compare.AssertClose(TrainingJob.Values(output, "loss"), straight, 1e-5, $"losses on {data}x{sequence}");
        }
    }

    // Rank 0 stops within the step, so that the kill cannot come too late; the checkpoint of step 10 becomes complete
    // beside it.
    private static void KillInStep15(MpiKind kind, int data, int sequence, string output)
    {
        using ProgramRun run = RankTests
            .Launcher(kind)
            .Start(
                data * sequence,
                Repository.LongNet,
                TrainingJob.RanksAgreeArguments(data, sequence, output, Settings),
                environment: new Dictionary<string, string?> { ["LONGNET_FAULT"] = "hang:0:15:forward" }
            );
        var clock = Stopwatch.StartNew();
        while (
            !File.Exists(Path.Combine(output, "checkpoints/LATEST"))
            || !run.Printed.Contains("LONGNET_FAULT: hang", StringComparison.Ordinal)
        )
        {
            Assert.False(run.HasExited, "the run ended before it could be killed");
            Assert.True(clock.Elapsed < TimeSpan.FromMinutes(2), "no checkpoint within two minutes");
            Thread.Sleep(5);
        }

        run.Kill();
        Assert.False(Directory.Exists(Path.Combine(output, End)), "the run reached its end before it was killed");
    }
}
