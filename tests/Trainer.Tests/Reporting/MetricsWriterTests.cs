using System.Text.Json;
using LongNet.TestKit;
using LongNet.Trainer.Reporting;

namespace LongNet.Trainer.Tests.Reporting;

public sealed class MetricsWriterTests : IDisposable
{
    private readonly TemporaryFolder folder = new();

    private string File => folder["metrics.jsonl"];

    public void Dispose() => folder.Dispose();

    [Fact]
    public void Write_AStepAndAnEvaluation_AreLinesOfJson()
    {
        var step = new StepMetrics
        {
            Step = 7,
            Loss = 1.0 / 3,
            GradientNorm = 0.1 + 0.2,
            LearningRate = 3e-4,
            Tokens = 1L << 40,
            TokensPerSecond = 12345.678901234567,
            StepSeconds = 1e-7,
            BytesSent = 0,
            ExposedCommunicationSeconds = 0.1,
            InFlightCommunicationSeconds = 0.7,
            CheckpointStallSeconds = 0.3,
        };
        Write(0, writer =>
        {
            writer.Write(step);
            writer.Write(new EvaluationMetrics(7, Math.Log(2) * 3));
        });
        string[] lines = System.IO.File.ReadAllText(File).Split('\n');
        Assert.Equal(3, lines.Length);
        Assert.Equal("", lines[2]);
        JsonElement first = JsonDocument.Parse(lines[0]).RootElement;
        Assert.Equal(
            [
                "step",
                "loss",
                "grad_norm",
                "lr",
                "tokens",
                "tokens_per_second",
                "step_seconds",
                "bytes_sent",
                "communication_seconds",
                "communication_total_seconds",
                "checkpoint_stall_seconds",
            ],
            first.EnumerateObject().Select(member => member.Name)
        );
        // Reading gives back the same bits.
        Assert.Equal(
            step,
            new StepMetrics
            {
                Step = first.GetProperty("step").GetInt64(),
                Loss = first.GetProperty("loss").GetDouble(),
                GradientNorm = first.GetProperty("grad_norm").GetDouble(),
                LearningRate = first.GetProperty("lr").GetDouble(),
                Tokens = first.GetProperty("tokens").GetInt64(),
                TokensPerSecond = first.GetProperty("tokens_per_second").GetDouble(),
                StepSeconds = first.GetProperty("step_seconds").GetDouble(),
                BytesSent = first.GetProperty("bytes_sent").GetInt64(),
                ExposedCommunicationSeconds = first.GetProperty("communication_seconds").GetDouble(),
                InFlightCommunicationSeconds = first.GetProperty("communication_total_seconds").GetDouble(),
                CheckpointStallSeconds = first.GetProperty("checkpoint_stall_seconds").GetDouble(),
            }
        );
        JsonElement second = JsonDocument.Parse(lines[1]).RootElement;
        Assert.Equal(
            ["step", "eval_loss", "eval_bits_per_byte"],
            second.EnumerateObject().Select(member => member.Name)
        );
        Assert.Equal(3, second.GetProperty("eval_bits_per_byte").GetDouble(), 1e-15);
    }

    [Fact]
    public void Write_AScaledStep_SaysItsScaleAndNullForWhatOverflows()
    {
        var step = new StepMetrics
        {
            Step = 7,
            Loss = double.NaN,
            GradientNorm = double.PositiveInfinity,
            LearningRate = 3e-4,
            Tokens = 64,
            TokensPerSecond = 1,
            StepSeconds = 1,
            BytesSent = 0,
            ExposedCommunicationSeconds = 0,
            InFlightCommunicationSeconds = 0,
            CheckpointStallSeconds = 0,
            PeakMemoryBytes = 3L << 32,
            LossScale = 65536,
            SkippedSteps = 2,
        };
        Assert.True(step.IsSkipped);
        Assert.False((step with { Loss = 5, GradientNorm = 1 }).IsSkipped);
        Write(0, writer => writer.Write(step));
        Assert.Equal(
            "{\"step\":7,\"loss\":null,\"grad_norm\":null,\"lr\":0.0003,\"tokens\":64,"
                + "\"tokens_per_second\":1,\"step_seconds\":1,\"bytes_sent\":0,"
                + "\"communication_seconds\":0,\"communication_total_seconds\":0,\"checkpoint_stall_seconds\":0,"
                + "\"peak_memory_bytes\":12884901888,\"loss_scale\":65536,\"skipped_steps\":2}\n",
            System.IO.File.ReadAllText(File)
        );
    }

    [Theory]
    [InlineData("")]
    [InlineData("{\"step\":3,\"lo")]
    [InlineData("not json\n")]
    [InlineData("{\"step\":3,\"loss\":1}\n{\"step\":2,\"loss\":1}\n")]
    public void Open_AfterAStop_KeepsTheLinesUpToTheStepAndNoTornOne(string after)
    {
        const string Kept = "{\"step\":0,\"eval_loss\":5}\n{\"step\":1,\"loss\":2}\n{\"step\":2,\"loss\":1}\n";
        System.IO.File.WriteAllText(File, Kept + after);
        Write(2, writer => writer.Write(new EvaluationMetrics(2, 1)));
        Assert.Equal(
            Kept + "{\"step\":2,\"eval_loss\":1,\"eval_bits_per_byte\":1.4426950408889634}\n",
            System.IO.File.ReadAllText(File)
        );
    }

    [Fact]
    public void Open_ANewRun_KeepsNothingOfAnEarlierOne()
    {
        System.IO.File.WriteAllText(File, "{\"step\":0,\"eval_loss\":5}\n");
        Write(null, writer => writer.Sync());
        Assert.Equal("", System.IO.File.ReadAllText(File));
    }

    [Fact]
    public void Open_WhatCannotBeWritten_IsNamed() =>
        Assert.StartsWith(
            $"{folder.Path} cannot be written: ",
            Assert.Throws<Core.UserException>(() => new MetricsWriter(folder.Path, 0)).Message,
            StringComparison.Ordinal
        );

    private void Write(long? step, Action<MetricsWriter> write)
    {
        using var writer = new MetricsWriter(File, step);
        write(writer);
    }
}
