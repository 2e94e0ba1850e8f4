using LongNet.Core.Model;
using LongNet.Core.Model.Torchscale;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Configuration;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>A run that begins with the weights of a file.</summary>
public sealed class InitialWeightsTests : IDisposable
{
    private static readonly string Config = Repository.PathOf("configs/ranks-agree.yaml");

    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void Train_OnOneAndOnTwoRanks_BeginsWithTheFilesModel()
    {
        string[] normalized =
        [
            "--set",
            "model.sub_layer_norm=true",
            "--set",
            "evaluation.every_steps=1",
            "--steps",
            "1",
        ];
        // Held-out windows do not depend on the seed, so a run with the other seed evaluates the other model on the
        // same text.
        RunAlone("other", [.. normalized, "--set", "seed=12"]);
        RunAlone("own", normalized);
        using (
            var model = new LongNetLanguageModel(
                ConfigurationFile.Load(Config, ["model.sub_layer_norm=true"]).Model.ToModel(),
                seed: 12
            )
        )
            TorchscaleWeights.Save(model, folder["weights.safetensors"]);

        string[] given = [.. normalized, "--set", $"model.initial_weights={folder["weights.safetensors"]}"];
        ProgramResult alone = RunAlone("alone", given);
        Assert.Contains(
            $"\ninitial weights: {folder["weights.safetensors"]}\n",
            alone.Output,
            StringComparison.Ordinal
        );
        Assert.DoesNotContain("note:", alone.Output, StringComparison.Ordinal);
        double expected = FirstEvaluation("other");
        Assert.Equal(expected, FirstEvaluation("alone"));
        Assert.NotEqual(expected, FirstEvaluation("own"));

        TrainingJob.RanksAgree(MpiKind.OpenMpi, 1, 2, folder["two"], given);
        // float32 sums in another order.
        Assert.Equal(expected, FirstEvaluation("two"), expected * 1e-5);
        foreach (string key in new[] { "loss", "grad_norm" })
            Compare.AssertClose(
                TrainingJob.Values(folder["two"], key),
                TrainingJob.Values(folder["alone"], key),
                1e-5,
                key
            );
    }

    [Fact]
    public void Train_FromACheckpointsFile_BeginsWhereThatEnded()
    {
        RunAlone("first", ["--steps", "2", "--set", "evaluation.every_steps=1"]);
        string weights = folder["first/checkpoints/step-00000002/model.safetensors"];
        ProgramResult second = RunAlone(
            "second",
            ["--steps", "1", "--set", "evaluation.every_steps=1", "--set", $"model.initial_weights={weights}"]
        );
        Assert.Equal(TrainingJob.Values(folder["first"], "eval_loss")[^1], FirstEvaluation("second"));
        Assert.Contains(
            $"\nnote: {weights} does not say its head offsets: if the authors' Python code trained it, set "
                + "model.attention.head_offsets: blocked.\n",
            second.Output,
            StringComparison.Ordinal
        );

        // A checkpoint has its own weights: the file may be gone.
        File.Delete(weights);
        ProgramResult resumed = RunAlone(
            "second",
            ["--steps", "2", "--resume", "auto", "--set", $"model.initial_weights={weights}"]
        );
        Assert.DoesNotContain("initial weights", resumed.Output, StringComparison.Ordinal);
        Assert.DoesNotContain("warning", resumed.Output, StringComparison.Ordinal);
    }

    [Fact]
    public void Train_AnotherModelsFile_IsToldOnceAndNothingIsWritten()
    {
        using (
            var model = new LongNetLanguageModel(
                ConfigurationFile.Load(Config, ["model.sub_layer_norm=true"]).Model.ToModel(),
                seed: 12
            )
        )
            TorchscaleWeights.Save(model, folder["weights.safetensors"]);
        ProgramResult result = RankTests
            .Launcher(MpiKind.OpenMpi)
            .Run(
                2,
                Repository.LongNet,
                TrainingJob.Arguments(
                    Config,
                    folder["run"],
                    "--set",
                    $"model.initial_weights={folder["weights.safetensors"]}"
                )
            );
        Assert.Equal(
            $"longnet: model.initial_weights: {folder["weights.safetensors"]} does not fit this model: it "
                + "also holds layers.0.self_attn.inner_attn_ln.weight, "
                + "layers.0.self_attn.inner_attn_ln.bias, layers.0.ffn.ffn_layernorm.weight and 5 more. Set "
                + "model.sub_layer_norm: true.",
            Assert.Single(result.Error.Split('\n'), line => line.StartsWith("longnet: ", StringComparison.Ordinal))
        );
        Assert.Equal(2, result.ExitCode);
        Assert.False(Directory.Exists(folder["run"]));
    }

    private double FirstEvaluation(string run) => TrainingJob.Values(folder[run], "eval_loss")[0];

    private ProgramResult RunAlone(string run, params string[] more) =>
        TrainingJob.RanksAgree(MpiKind.None, 1, 1, folder[run], more);
}
