using System.Text.Json;
using LongNet.Core.Serialization;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Tests.Checkpoints;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>
/// Runs in float16 whose gradients overflow, because they go on from a checkpoint whose scale is the largest that a
/// float32 holds: steps are skipped until it is small enough, whatever type overflows.
/// </summary>
public sealed class LossScalingTests : IDisposable
{
    // 2^127 has to come down to about 2^15, where float16 holds gradients of 1, with one step for each halving.
    private const int Steps = 140;

    private const double Huge = 1.7014118346046923e38;

    private const string Model = "model.safetensors",
        Optimizer = "optimizer-00000-of-00001.safetensors";

    private static readonly string[] Small =
    [
        "--set",
        "model.layers=1",
        "--set",
        "model.d_model=32",
        "--set",
        "model.attention.segment_lengths=[32, 64]",
        "--set",
        "model.attention.dilation_rates=[1, 2]",
        "--set",
        "training.sequence_length=64",
        "--set",
        "training.batch_size=2",
        "--set",
        $"training.steps={Steps}",
        "--set",
        "evaluation.every_steps=0",
        "--set",
        "runtime.threads=1",
        "--set",
        "optimizer.lr=2e-3",
        "--set",
        "optimizer.min_lr=2e-3",
    ];

    private static readonly string[] Float16 = [.. Small, "--set", "precision.compute=float16"];

    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void Train_AStepThatOverflows_IsSkippedAndTheScaleHalves()
    {
        string start = SaveWithHugeScale();
        ProgramResult result = Train(
            "run",
            "--resume",
            start,
            "--set",
            "checkpoint.every_steps=1",
            "--set",
            "checkpoint.keep_every=1",
            "--steps",
            "2"
        );
        double loss = Assert.Single(TrainingJob.Values(folder["run"], "loss"));
        Assert.Contains(
            $"\nstep 2/2  loss {loss:F4}  skipped: it overflows with loss scale 1.7014118346046923E+38\n",
            result.Output,
            StringComparison.Ordinal
        );
        Assert.Contains("\nsettings: precision.compute float16\n", result.Output, StringComparison.Ordinal);

        // A step for the data and the learning rate, and none for parameters and optimizer state.
        JsonElement line = Assert.Single(TrainingJob.Metrics(folder["run"], "loss"));
        Assert.Equal("null", line.GetProperty("grad_norm").GetRawText());
        Assert.Equal(
            (2, 256, 8e-4),
            (
                line.GetProperty("step").GetInt64(),
                line.GetProperty("tokens").GetInt64(),
                line.GetProperty("lr").GetDouble()
            )
        );
        Assert.Equal(
            (Huge, 1),
            (line.GetProperty("loss_scale").GetDouble(), line.GetProperty("skipped_steps").GetInt64())
        );
        string end = folder["run/checkpoints/step-00000002"];
        foreach (string file in new[] { Model, Optimizer })
            Assert.Equal(File.ReadAllBytes(Path.Combine(start, file)), File.ReadAllBytes(Path.Combine(end, file)));
        CheckpointManifest state = CheckpointManifest.Read(end);
        Assert.Equal((2, 4, 256), (state.Step, state.SequencesConsumed, state.TokensConsumed));
        Assert.Equal(new CheckpointLossScaler(Huge / 2, 0, 1), state.LossScaler);
    }

    [Theory]
    [InlineData(MpiKind.None, 1, 1, false)]
    [InlineData(MpiKind.OpenMpi, 2, 1, false, Traits = ["Category", "slow"])]
    [InlineData(MpiKind.OpenMpi, 2, 1, true)]
    [InlineData(MpiKind.Mpich, 1, 2, false)]
    public void Train_WithAScaleThatOverflows_SkipsOnAllRanksUntilItFits(
        MpiKind kind,
        int data,
        int sequence,
        bool sharded
    )
    {
        string start = SaveWithHugeScale();
        Train("one", "--resume", start);
        TrainingJob.RanksAgree(
            kind,
            data,
            sequence,
            folder["run"],
            [.. Float16, "--resume", start, "--set", $"parallel.shard_optimizer={(sharded ? "true" : "false")}"]
        );
        JsonElement[] lines = [.. TrainingJob.Metrics(folder["run"], "loss")];
        Assert.Equal(Enumerable.Range(2, Steps - 1), lines.Select(line => line.GetProperty("step").GetInt32()));
        double scale = Huge;
        int skipped = 0;
        foreach (JsonElement line in lines)
        {
            Assert.Equal(scale, line.GetProperty("loss_scale").GetDouble());
            if (line.GetProperty("grad_norm").ValueKind == JsonValueKind.Null)
                (scale, skipped) = (scale / 2, skipped + 1);
            Assert.Equal(skipped, line.GetProperty("skipped_steps").GetInt32());
        }

        Assert.InRange(skipped, 1, Steps - 11);
        // All but the last halvings are needed anywhere. Ranks that have fewer rows sum fewer of them in float16, which
        // at the scale that just fits decides whether a step overflows; measured: one step.
        double[] one = TrainingJob.Values(folder["one"], "skipped_steps"),
            many = TrainingJob.Values(folder["run"], "skipped_steps");
        Assert.InRange(many[^1], one[^1] - 2, one[^1] + 2);
        int alike = (int)Math.Min(many[^1], one[^1]) - 2;
        Assert.Equal(one[..Math.Max(1, alike)], many[..Math.Max(1, alike)]);
        // It learns once the scale fits: untrained bytes cost ln 256 = 5.5 nats.
        Assert.All(lines[^10..], line => Assert.InRange(line.GetProperty("loss").GetDouble(), 1, 5.4));

        string end = folder[$"run/checkpoints/{CheckpointStore.NameOf(Steps)}"];
        CheckpointLossScaler state = CheckpointManifest.Read(end).LossScaler!;
        Assert.Equal((scale, skipped), (state.Scale, state.SkippedSteps));
        // A later step may overflow once more, as the text has it.
        Assert.Equal(
            lines.Reverse().TakeWhile(line => line.GetProperty("grad_norm").ValueKind != JsonValueKind.Null).Count(),
            state.GoodSteps
        );
        using var scope = NewDisposeScope();
        using SafetensorsReader optimizer = SafetensorsReader.Open(
            Path.Combine(end, sharded ? "optimizer-00000-of-00002.safetensors" : Optimizer)
        );
        Assert.Equal(Steps - skipped, optimizer.Read("step").item<float>());
    }

    [Fact]
    public void Resume_BetweenSkippedSteps_IsBitwiseTheSame()
    {
        string start = SaveWithHugeScale();
        Train("straight", "--resume", start);
        Train("stopped", "--resume", start, "--steps", "3");
        Assert.Equal(
            new CheckpointLossScaler(Huge / 4, 0, 2),
            CheckpointManifest.Read(folder["stopped/checkpoints/step-00000003"]).LossScaler
        );
        Train("stopped", "--resume", "auto");
        string end = $"checkpoints/{CheckpointStore.NameOf(Steps)}";
        foreach (string file in new[] { Model, Optimizer })
            Assert.Equal(
                File.ReadAllBytes(Path.Combine(folder["straight"], end, file)),
                File.ReadAllBytes(Path.Combine(folder["stopped"], end, file))
            );
        foreach (string key in new[] { "loss", "lr", "tokens", "loss_scale", "skipped_steps" })
            Assert.Equal(TrainingJob.Values(folder["straight"], key), TrainingJob.Values(folder["stopped"], key));
        Assert.Equal(
            CheckpointManifest.Read(Path.Combine(folder["straight"], end)).LossScaler,
            CheckpointManifest.Read(Path.Combine(folder["stopped"], end)).LossScaler
        );
    }

    [Fact]
    public void Train_ThatOverflowsWhateverTheScale_EndsOnAllRanks()
    {
        // One good step makes parameters that no scale can mend. 65536 = 2^16 is halved in 16 steps, and the next says
        // what is wrong.
        ProgramResult result = RankTests
            .Launcher(MpiKind.OpenMpi)
            .Run(
                2,
                Repository.LongNet,
                TrainingJob.RanksAgreeArguments(
                    2,
                    1,
                    folder["run"],
                    [.. Float16, "--set", "optimizer.lr=1e30", "--set", "optimizer.warmup_steps=0"]
                )
            );
        Assert.Equal(
            "longnet: Step 18 has loss NaN and gradient norm NaN, so training cannot go on: lower "
                + "optimizer.lr or lengthen optimizer.warmup_steps, "
                + "and go on from the last checkpoint with --resume auto.",
            Assert.Single(result.Error.Split('\n'), line => line.StartsWith("longnet: ", StringComparison.Ordinal))
        );
        Assert.Equal(2, result.ExitCode);
        JsonElement[] lines = [.. TrainingJob.Metrics(folder["run"], "loss")];
        Assert.Equal(17, lines.Length);
        Assert.Equal(
            (65536, 2),
            (lines[0].GetProperty("loss_scale").GetDouble(), lines[^1].GetProperty("loss_scale").GetDouble())
        );
        Assert.Equal(
            (16, JsonValueKind.Null),
            (lines[^1].GetProperty("skipped_steps").GetInt32(), lines[^1].GetProperty("loss").ValueKind)
        );
    }

    [Fact]
    public void Resume_InAnotherType_BeginsWithTheInitialScaleOrWithNone()
    {
        RunAlone(Small, "float32", "--steps", "1");
        string float32 = folder["float32/checkpoints/step-00000001"];
        Assert.Null(CheckpointManifest.Read(float32).LossScaler);
        ProgramResult scaled = Train("scaled", "--resume", float32, "--steps", "2");
        Assert.Contains(
            "\nwarning: since the checkpoint these keys have changed: precision.compute: float32 → float16\n",
            scaled.Output,
            StringComparison.Ordinal
        );
        Assert.Equal([65536], TrainingJob.Values(folder["scaled"], "loss_scale"));
        // That step may overflow.
        bool skipped = Assert.Single(TrainingJob.Values(folder["scaled"], "skipped_steps")) == 1;
        Assert.Equal(
            skipped ? new CheckpointLossScaler(32768, 0, 1) : new CheckpointLossScaler(65536, 1, 0),
            CheckpointManifest.Read(folder["scaled/checkpoints/step-00000002"]).LossScaler
        );

        string start = SaveWithHugeScale();
        RunAlone(Small, "unscaled", "--resume", start, "--steps", "2");
        Assert.Single(TrainingJob.Values(folder["unscaled"], "grad_norm"));
        Assert.Empty(TrainingJob.Metrics(folder["unscaled"], "loss_scale"));
        Assert.Empty(TrainingJob.Metrics(folder["unscaled"], "skipped_steps"));
        Assert.Null(CheckpointManifest.Read(folder["unscaled/checkpoints/step-00000002"]).LossScaler);
    }

    // In float32, so that the first step is a good one.
    private string SaveWithHugeScale()
    {
        RunAlone(Small, "start", "--steps", "1");
        string checkpoint = folder["start/checkpoints/step-00000001"];
        SavedCheckpoint.Rewrite(Path.Combine(checkpoint, "state.json"), text =>
            text.Replace(
                "\"loss_scaler\": null",
                "\"loss_scaler\": {\"scale\": 1.7014118346046923E+38, \"good_steps\": 1, \"skipped_steps\": 0}",
                StringComparison.Ordinal
            )
        );
        Assert.Equal(new CheckpointLossScaler(Huge, 1, 0), CheckpointManifest.Read(checkpoint).LossScaler);
        return checkpoint;
    }

    private ProgramResult Train(string name, params string[] more) => RunAlone(Float16, name, more);

    private ProgramResult RunAlone(string[] settings, string name, params string[] more) =>
        TrainingJob.RanksAgree(MpiKind.None, 1, 1, folder[name], [.. settings, .. more]);
}
