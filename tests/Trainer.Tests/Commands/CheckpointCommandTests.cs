using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using LongNet.Core.Serialization;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Checkpoints.Tools;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Storage;
using LongNet.Trainer.Tests.Checkpoints;
using LongNet.Trainer.Tests.Ranks;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Commands;

/// <summary>longnet checkpoint, as a person starts it, on small checkpoints and on those of a real run.</summary>
public sealed class CheckpointCommandTests : IClassFixture<CheckpointCommandTests.TrainedRun>, IDisposable
{
    private const string Model = "model.safetensors",
        Optimizer = "optimizer-00000-of-00001.safetensors";

    private readonly TrainedRun run;
    private readonly TemporaryFolder folder = new();
    private readonly TorchSharp.DisposeScope scope = NewDisposeScope();

    public CheckpointCommandTests(TrainedRun run) => this.run = run;

    private CheckpointStore Store => new(folder["checkpoints"]);

    public void Dispose()
    {
        scope.Dispose();
        folder.Dispose();
    }

    [Fact]
    public void Verify_OfOne_ListsEveryFileAndChangesNothing()
    {
        string saved = Save(100);
        Dictionary<string, byte[]> before = Directory.GetFiles(saved).ToDictionary(path => path, File.ReadAllBytes);
        long state = Length(saved, "state.json"),
            model = Length(saved, Model),
            optimizer = Length(saved, Optimizer);
        string expected =
            $"state.json                            {state} bytes  ok\n"
            + $"model.safetensors                     {model, 4} bytes  ok\n"
            + $"optimizer-00000-of-00001.safetensors  {optimizer, 4} bytes  ok\n"
            + "whole: step 100, 3 files, 0.001 MB\n";
        Assert.InRange(state + model + optimizer, 500, 1499);
        foreach (string path in new[] { saved, saved + "/", folder["checkpoints/LATEST"] })
            AssertEnds(0, expected, "", Run("verify", path));
        Assert.Equal(before.Keys.Order(), Directory.GetFiles(saved).Order());
        Assert.All(before, file => Assert.Equal(file.Value, File.ReadAllBytes(file.Key)));
    }

    [Theory]
    [InlineData(Model, "missing", "it is missing")]
    [InlineData(Model, "shorter", "it has 99 bytes, and 100 were written")]
    [InlineData(Optimizer, "changed", "its content is not what was written (SHA-256 differs)")]
    [InlineData(Optimizer, "no tensors", "it is not a valid safetensors file (its header is not well-formed JSON)")]
    public void Verify_Damage_IsNamedInTheListAndInOneSentence(string file, string damage, string problem)
    {
        string saved = Save(10),
            path = Path.Combine(saved, file);
        byte[] bytes = File.ReadAllBytes(path);
        switch (damage)
        {
            case "missing":
                File.Delete(path);
                break;
            case "shorter":
                File.WriteAllBytes(path, bytes[..^1]);
                problem = $"it has {bytes.Length - 1} bytes, and {bytes.Length} were written";
                break;
            case "changed":
                bytes[^1] ^= 1;
                File.WriteAllBytes(path, bytes);
                break;
            default:
                // As a program would leave it that writes nonsense with the right digest.
                string digest = Digest(bytes);
                bytes[9] = (byte)'{';
                File.WriteAllBytes(path, bytes);
                SavedCheckpoint.Rewrite(Path.Combine(saved, "state.json"), text =>
                    text.Replace(digest, Digest(bytes), StringComparison.Ordinal)
                );
                break;
        }

        ProgramResult result = Run("verify", saved);
        Assert.Equal(2, result.ExitCode);
        Assert.Equal(
            $"longnet: The checkpoint {saved} is damaged: {file}: {problem}. Resume from another one: "
                + "--resume auto takes the newest that is whole.\n",
            result.Error
        );
        string[] lines = result.Output.TrimEnd().Split('\n');
        Assert.Equal(3, lines.Length);
        Assert.EndsWith(
            $" bytes  {problem}",
            Assert.Single(lines, line => line.StartsWith(file, StringComparison.Ordinal)),
            StringComparison.Ordinal
        );
        Assert.Equal(2, lines.Count(line => line.EndsWith(" bytes  ok", StringComparison.Ordinal)));
    }

    [Fact]
    public void Verify_OfARun_LooksAtEveryCheckpoint()
    {
        Save(10);
        Save(20);
        Save(30);
        foreach (string path in new[] { folder.Path, folder["checkpoints"] })
        {
            AssertEnds(
                0,
                "step-00000010  whole: 3 files, 0.001 MB\nstep-00000020  whole: 3 files, 0.001 MB\n"
                    + "step-00000030  whole: 3 files, 0.001 MB\n"
                    + "checkpoints that are whole: 3 of 3\n",
                "",
                Run("verify", path)
            );
        }

        File.Delete(Path.Combine(Store.PathOf(20), Model));
        Directory.Move(Store.PathOf(30), Store.PathOf(31));
        File.WriteAllText(
            Path.Combine(Save(40), "state.json"),
            """{"format":"longnet-checkpoint","format_version":99}"""
        );
        AssertEnds(
            2,
            "step-00000010  whole: 3 files, 0.001 MB\n"
                + "step-00000020  damaged: model.safetensors: it is missing\n"
                + "step-00000031  damaged: state.json: it is of step 30\n"
                + $"step-00000040  {folder["checkpoints/step-00000040/state.json"]} has format version 99, and "
                + "this program reads 3: use the newer longnet that wrote it.\n",
            $"longnet: Of 4 checkpoints in {folder["checkpoints"]}, 3 cannot be used: step-00000020, "
                + "step-00000031, step-00000040.\n",
            Run("verify", folder.Path)
        );
    }

    [Fact]
    public void Verify_PointerToNothing_IsToldThoughAllAreWhole()
    {
        Save(10);
        File.WriteAllText(folder["checkpoints/BEST"], "step-00000030\n");
        AssertEnds(
            2,
            "step-00000010  whole: 3 files, 0.001 MB\n",
            $"longnet: {folder["checkpoints/BEST"]} names \"step-00000030\", which is no checkpoint there. "
                + "Name the folder of one that is: step-00000010.\n",
            Run("verify", folder.Path)
        );
    }

    [Theory]
    [InlineData("verify")]
    [InlineData("inspect")]
    [InlineData("export", "--output", "weights.safetensors")]
    [InlineData("diff", "/nowhere/too")]
    public void AnyCommand_WithoutACheckpoint_SaysWhatToName(string command, params string[] more) =>
        AssertEnds(
            2,
            "",
            "longnet: There is no checkpoint in /nowhere: name a folder such as "
                + "runs/NAME/checkpoints/step-00000100, or a run's folder.\n",
            Run([command, "/nowhere", .. more])
        );

    [Fact]
    public void AnyCommand_UnderALauncher_IsRankZerosAndNeedsNoMpi()
    {
        string saved = Save(10);
        var withoutMpi = new Dictionary<string, string?> { ["LONGNET_MPI_LIBRARY"] = "libnowhere.so" };
        foreach (MpiKind kind in new[] { MpiKind.OpenMpi, MpiKind.Mpich })
        {
            MpiLauncher launcher = RankTests.Launcher(kind);
            Assert.Equal(
                "step-00000010  whole: 3 files, 0.001 MB\ncheckpoints that are whole: 1 of 1\n",
                launcher
                    .Run(2, Repository.LongNet, ["checkpoint", "verify", folder.Path], environment: withoutMpi)
                    .AssertSuccess()
                    .Output
            );
            Assert.Equal(
                "equal: state, configuration and 3 tensors\n",
                launcher
                    .Run(2, Repository.LongNet, ["checkpoint", "diff", saved, saved], environment: withoutMpi)
                    .AssertSuccess()
                    .Output
            );
            ProgramResult mistaken = launcher.Run(
                2,
                Repository.LongNet,
                ["checkpoint", "inspect", "/nowhere"],
                environment: withoutMpi
            );
            Assert.Equal(2, mistaken.ExitCode);
            Assert.Single(mistaken.Error.Split('\n'), line => line.StartsWith("longnet: ", StringComparison.Ordinal));
        }
    }

    [Fact]
    public void VerifyAndInspect_WithoutLibtorch_Work()
    {
        string saved = Save(10);
        // A folder in addition to the build's own libtorch is refused, and one without libtorch too.
        var without = new Dictionary<string, string?> { ["LONGNET_LIBTORCH"] = folder.Path };
        RunWith(without, "verify", saved).AssertSuccess();
        RunWith(without, "inspect", saved).AssertSuccess();
        ProgramResult export = RunWith(without, "export", saved, "--output", folder["weights.safetensors"]);
        Assert.StartsWith("longnet: LONGNET_LIBTORCH ", export.Error, StringComparison.Ordinal);
        Assert.Equal(2, export.ExitCode);
    }

    [Fact]
    public void Inspect_Table_TellsStateAndTensors()
    {
        string saved = SavedCheckpoint.Save(
            Store,
            SavedCheckpoint.Part(100, validationLoss: 1.25) with
            {
                Model = [("weight", ones(1000, 2)), ("bias", ones(2, dtype: ScalarType.BFloat16))],
            }
        )!;
        AssertEnds(
            0,
            $"""
            checkpoint       {saved}
            step             100
            samples          400
            tokens           51200
            validation loss  1.25
            seed             1
            mesh             1 data x 2 sequence, CPU threads per rank: 1
            micro-batch      4
            optimizer        not sharded
            learning rate    0.001 after 10 steps of warm-up, to 0.0001 at step 100
            corpus           2 files
            written by       longnet test, torch 2, .NET 10

            parameter  type  shape          MB
            weight     F32   [1000, 2]   0.008
            bias       BF16  [2]        <0.001

            optimizer state  tensors  elements      MB
            step             1        1         <0.001
            exp_avg          1        6         <0.001

            2 tensors, 2002 parameters, 0.008 MB; optimizer state <0.001 MB; together 0.008 MB

            """,
            "",
            Run("inspect", folder.Path)
        );

        using JsonDocument json = JsonDocument.Parse(Run("inspect", saved, "--json").AssertSuccess().Output);
        using JsonDocument state = JsonDocument.Parse(File.ReadAllText(Path.Combine(saved, "state.json")));
        Assert.True(JsonElement.DeepEquals(state.RootElement, json.RootElement.GetProperty("state")));
        Assert.Equal(
            """{"name":"bias","dtype":"BF16","shape":[2],"bytes":4}""",
            JsonSerializer.Serialize(json.RootElement.GetProperty("tensors")[1])
        );
        Assert.Equal(
            """{"kind":"exp_avg","tensors":1,"elements":6,"bytes":24}""",
            JsonSerializer.Serialize(json.RootElement.GetProperty("optimizer_state")[1])
        );
        Assert.Equal((2002, 8004, 28), (Number("parameters"), Number("model_bytes"), Number("optimizer_bytes")));

        ProgramResult both = Run("inspect", saved, "--json", "--config");
        Assert.Equal(
            "longnet: --config prints YAML and --json prints JSON: give one of them.\nlongnet: --help "
                + "shows what there is.\n",
            both.Error
        );
        Assert.Equal(2, both.ExitCode);

        int Number(string key) => json.RootElement.GetProperty(key).GetInt32();
    }

    [Fact]
    public void InspectAndDiff_AScaledLoss_TellItsScale()
    {
        CheckpointPart part = SavedCheckpoint.Part(100);
        string saved = SavedCheckpoint.Save(
            Store,
            part with
            {
                Manifest = part.Manifest with { LossScaler = new CheckpointLossScaler(32768, 70, 3) },
            }
        )!;
        Assert.Contains(
            "\nlearning rate    0.001 after 10 steps of warm-up, to 0.0001 at step 100\nloss scale       "
                + "32768, good steps since it changed: 70, skipped steps in all: 3\ncorpus           2 files\n",
            Run("inspect", saved).AssertSuccess().Output,
            StringComparison.Ordinal
        );
        using JsonDocument json = JsonDocument.Parse(Run("inspect", saved, "--json").AssertSuccess().Output);
        Assert.Equal(
            """{"scale":32768,"good_steps":70,"skipped_steps":3}""",
            JsonSerializer.Serialize(json.RootElement.GetProperty("state").GetProperty("loss_scaler"))
        );
        string unscaled = SavedCheckpoint.Save(new CheckpointStore(folder["unscaled"]), part)!;
        AssertEnds(
            1,
            "state   loss_scaler.scale: 32768 → none\nstate   loss_scaler.good_steps: 70 → none\nstate   "
                + "loss_scaler.skipped_steps: 3 → none\n"
                + "0 of 3 tensors differ; entries of the state: 3, keys of the configuration: 0\n",
            "",
            Run("diff", saved, unscaled)
        );
    }

    [Fact]
    public void Inspect_OutputThatIsFull_IsToldWithoutAStackTrace()
    {
        Assert.SkipUnless(File.Exists("/dev/full"), "there is no /dev/full here");
        ProgramResult result = ProgramRun.ToEnd(
            TimeSpan.FromMinutes(1),
            "bash",
            ["-c", "exec \"$@\" > /dev/full", "bash", Repository.LongNet, "checkpoint", "inspect", Save(10)]
        );
        Assert.StartsWith("longnet: No space left on device", result.Error, StringComparison.Ordinal);
        Assert.Single(result.Error.TrimEnd().Split('\n'));
        Assert.Equal(2, result.ExitCode);
    }

    [Fact]
    public void Inspect_Shards_AreOneState()
    {
        string output = Run("inspect", SaveInShards("two", [1, 2, 3, 4, 5, 6], at: 4)).AssertSuccess().Output;
        Assert.Contains("\noptimizer        sharded, 2 files\n", output, StringComparison.Ordinal);
        Assert.Contains(
            "\nstep             1        1         <0.001\nexp_avg          1        6         <0.001\n",
            output,
            StringComparison.Ordinal
        );
    }

    [Fact]
    public void Inspect_Config_IsWhatTrainTakes()
    {
        string yaml = folder.Write("again.yaml", Run("inspect", run.Path, "--config").AssertSuccess().Output);
        Assert.Equal(File.ReadAllText(run["config.yaml"]), ConfigurationText.ToYaml(ConfigurationFile.Load(yaml, [])));
        // The same run, to the bit.
        RankTests
            .Launcher(MpiKind.None)
            .Run(1, Repository.LongNet, TrainingJob.Arguments(yaml, folder["again"], "--steps", "1"))
            .AssertSuccess();
        Assert.Equal(TrainingJob.Values(run.Path, "loss")[0], TrainingJob.Values(folder["again"], "loss")[0]);
    }

    [Theory]
    [InlineData("float32", ScalarType.Float32)]
    [InlineData("bfloat16", ScalarType.BFloat16)]
    [InlineData("float16", ScalarType.Float16)]
    public void Export_OfARun_HoldsItsWeightsRoundedToNearestEven(string name, ScalarType type)
    {
        string output = folder["weights.safetensors"];
        string latest = run["checkpoints/step-00000002"];
        ProgramResult result = Run("export", run.Path, "--output", output, "--dtype", name);
        using SafetensorsReader source = SafetensorsReader.Open(Path.Combine(latest, Model)),
            reader = SafetensorsReader.Open(output);
        long parameters = source.Names.Sum(tensor => source.Read(tensor).NumberOfElements);
        AssertEnds(
            0,
            $"{output}: {source.Names.Count} tensors, {parameters} parameters in {name}, "
                + $"{CheckpointSummary.Megabytes(new FileInfo(output).Length)} MB, from {latest}\n",
            "",
            result
        );
        Assert.Equal(source.Names, reader.Names);
        Assert.All(reader.Names, tensor =>
        {
            Assert.Equal(type, reader.Type(tensor));
            Assert.True(reader.Read(tensor).eq(source.Read(tensor).to(type)).all().item<bool>(), tensor);
        });
        Assert.Equal(
            new Dictionary<string, string>
            {
                ["format"] = "pt",
                ["longnet.step"] = "2",
                ["longnet.dtype"] = name,
                ["longnet.heads"] = "4",
                ["longnet.head_offsets"] = "interleaved",
                ["longnet.positions"] = "xpos",
            },
            reader.Metadata
        );
        Assert.Equal([output], Directory.GetFiles(folder.Path));
    }

    [Fact]
    public void Export_Rounding_IsToNearestEvenAndOverflowIsTold()
    {
        // Half-way between two neighbours in float16, whose steps are 2 from 2048 on: to the even one. 65520 is
        // half-way to what has no number.
        float[] values = [2049, 2051, 65519, 65520, -1e6f, float.PositiveInfinity, float.NaN, 6e-8f, -0f];
        string saved = SavedCheckpoint.Save(
            Store,
            SavedCheckpoint.Part(1) with
            {
                Model = [("a", tensor(values)), ("b", ones(2)), ("c", tensor(new[] { 1e30f }))],
            }
        )!;
        string output = folder["weights.safetensors"];
        AssertEnds(
            0,
            "note: the checkpoint's model keys are not those of this longnet, so the file does not say its "
                + "heads, head offsets and positions.\n"
                + "note: 3 values are too large for float16 and became infinite, in 2 of 3 tensors, such as a: "
                + "take --dtype bfloat16.\n"
                + $"{output}: 3 tensors, 12 parameters in float16, <0.001 MB, from {saved}\n",
            "",
            Run("export", saved, "--output", output, "--dtype", "float16")
        );
        using SafetensorsReader reader = SafetensorsReader.Open(output);
        Assert.Equal(
            [
                2048,
                2052,
                65504,
                float.PositiveInfinity,
                float.NegativeInfinity,
                float.PositiveInfinity,
                float.NaN,
                MathF.Pow(2, -24),
                -0f,
            ],
            reader.Read("a").to(ScalarType.Float32).data<float>().ToArray()
        );
    }

    [Fact]
    public void Export_WhereItWouldDestroy_IsRefused()
    {
        string saved = Save(10),
            output = folder.Write("weights.safetensors", "mine");
        AssertEnds(
            2,
            "",
            $"longnet: --output {output} is already there: add --force to replace it, or name another file.\n",
            Run("export", saved, "-o", output)
        );
        Assert.Equal("mine", File.ReadAllText(output));
        Run("export", saved, "-o", output, "--force").AssertSuccess();
        using (SafetensorsReader reader = SafetensorsReader.Open(output))
            Assert.Equal(["weight"], reader.Names);

        AssertEnds(
            2,
            "",
            $"longnet: --output {folder.Path} is a folder: name a file in it, such as "
                + $"{folder["weights.safetensors"]}.\n",
            Run("export", saved, "-o", folder.Path)
        );
        string inside = Path.Combine(saved, Model);
        AssertEnds(
            2,
            "",
            $"longnet: --output {inside} lies in a checkpoint, which would then hold what no run has "
                + "written: name a file elsewhere.\n",
            Run("export", saved, "-o", inside, "--force")
        );
        AssertEnds(
            2,
            "",
            $"longnet: Cannot write {folder["no/w.safetensors"]}: Could not find a part of the path "
                + $"'{folder["no/w.safetensors.partial"]}'. Check the folder, its permissions and the free "
                + "space.\n",
            Run("export", saved, "-o", folder["no/w.safetensors"])
        );
        Assert.Equal(
            "longnet: --output is empty: name a file.\nlongnet: --help shows what there is.\n",
            Run("export", saved, "-o", "").Error
        );
        ProgramResult type = Run("export", saved, "-o", folder["other"], "--dtype", "int8");
        Assert.Equal(
            "longnet: --dtype is int8, but must be one of float32, bfloat16, float16.\nlongnet: --help "
                + "shows what there is.\n",
            type.Error
        );

        // Only the weights are looked at, and before anything is written.
        File.Delete(Path.Combine(saved, Optimizer));
        Run("export", saved, "-o", output, "--force").AssertSuccess();
        byte[] bytes = File.ReadAllBytes(inside);
        bytes[^1] ^= 1;
        File.WriteAllBytes(inside, bytes);
        AssertEnds(
            2,
            "",
            $"longnet: The checkpoint {saved} is damaged: model.safetensors: its content is not what was "
                + "written (SHA-256 differs). "
                + "Resume from another one: --resume auto takes the newest that is whole.\n",
            Run("export", saved, "-o", folder["other"])
        );
        Assert.False(File.Exists(folder["other"]));
    }

    [Theory]
    [InlineData("float32", 0)]
    // Weights of eight bits move a loss of 5 in the fourth place.
    [InlineData("bfloat16", 5e-3)]
    [InlineData("float16", 5e-3)]
    public void Export_AsInitialWeights_BeginsWhereTheCheckpointEnded(string type, double tolerance)
    {
        string weights = folder["weights.safetensors"];
        Run("export", run.Path, "--output", weights, "--dtype", type).AssertSuccess();
        ProgramResult second = TrainingJob.RanksAgree(
            MpiKind.None,
            1,
            1,
            folder["second"],
            "--steps",
            "1",
            "--set",
            "evaluation.every_steps=1",
            "--set",
            $"model.initial_weights={weights}"
        );
        Assert.Contains($"\ninitial weights: {weights}\n", second.Output, StringComparison.Ordinal);
        Assert.DoesNotContain("note:", second.Output, StringComparison.Ordinal);
        double expected = TrainingJob.Values(run.Path, "eval_loss")[^1];
        Assert.Equal(expected, TrainingJob.Values(folder["second"], "eval_loss")[0], expected * tolerance);
    }

    [Fact]
    public void Diff_OfCopies_IsEqual()
    {
        Save(10);
        Copy(folder["checkpoints/step-00000010"], folder["copy"]);
        AssertEnds(0, "equal: state, configuration and 3 tensors\n", "", Run("diff", folder.Path, folder["copy"]));
    }

    [Fact]
    public void Diff_OfOtherNumbers_SaysByHowMuch()
    {
        string first = Save(10);
        CheckpointPart part = SavedCheckpoint.Part(10);
        var changed = new CheckpointStore(folder["changed"]);
        string second = SavedCheckpoint.Save(
            changed,
            part with
            {
                Manifest = part.Manifest with
                {
                    Seed = 2,
                    Mesh = new CheckpointMesh(2, 1),
                    Config = JsonElement.Parse("""{"seed":2,"output":"b","model":{"heads":[1,2]}}"""),
                },
                // Two of six elements; the largest magnitude is 10.5.
                Model = [("weight", tensor(new[] { 10f, 10f, 10f, 10.5f, 10f, 9.75f }).view(2, 3))],
                Optimizer =
                [
                    part.Optimizer[0],
                    new StateSlice(
                        "exp_avg.weight",
                        null,
                        tensor(new[] { 20f, 20f, 20f, 20f, 20f, float.NaN }).view(2, 3)
                    ),
                ],
            }
        )!;
        AssertEnds(
            1,
            """
            state   seed: 1 → 2
            state   mesh.data: 1 → 2
            state   mesh.sequence: 2 → 1
            config  seed: 1 → 2
            config  model.heads: none → [1, 2]
            tensor  exp_avg.weight: 1 of 6 elements, at most 0, 0 of its largest value; not finite: 1
            tensor  weight: 2 of 6 elements, at most 0.5, 0.0476 of its largest value

            """
                + "2 of 3 tensors differ, at most 0.5 in a parameter (weight), at most 0.0476 of a tensor's largest "
                + "value (weight), not finite: 1 elements\n",
            "",
            Run("diff", first, second)
        );

        // A zero of the other sign is another zero.
        AssertEnds(
            1,
            "tensor  weight: 1 of 6 elements, at most 0, 0 of its largest value\n"
                + "1 of 3 tensors differ, at most 0 in a parameter (weight), at most 0 of a tensor's largest "
                + "value (weight)\n",
            "",
            Run("diff", SaveWeights("plus", 0, 1, 2, 3, 4, 5), SaveWeights("minus", -0f, 1, 2, 3, 4, 5))
        );
    }

    [Fact]
    public void Diff_OfOtherTensors_NamesThem()
    {
        CheckpointPart part = SavedCheckpoint.Part(10);
        string first = SavedCheckpoint.Save(
            Store,
            part with
            {
                Model = [("weight", ones(2, 3)), ("old", ones(1)), ("same", ones(1))],
            }
        )!;
        string second = SavedCheckpoint.Save(
            new CheckpointStore(folder["other"]),
            part with
            {
                Model = [("same", ones(1)), ("weight", ones(3, 2))],
                Optimizer =
                [
                    part.Optimizer[0],
                    new StateSlice("exp_avg.weight", null, ones([2, 3], dtype: ScalarType.Float64)),
                ],
            }
        )!;
        AssertEnds(
            1,
            """
            only A  old
            shape   weight: F32 [2, 3] → F32 [3, 2]
            shape   exp_avg.weight: F32 [2, 3] → F64 [2, 3]
            3 of 5 tensors differ, in one alone: 1, of another shape or type: 2

            """,
            "",
            Run("diff", first, second)
        );
    }

    [Fact]
    public void Diff_OfShards_ComparesWholeTensors()
    {
        string two = SaveInShards("two", [1, 2, 3, 4, 5, 6], at: 4),
            three = SaveInShards("three", [1, 2, 3, 4, 5, 6], at: 1);
        AssertEnds(0, "equal: state, configuration and 3 tensors\n", "", Run("diff", two, three));
        AssertEnds(
            1,
            """
            tensor  exp_avg.weight: 1 of 6 elements, at most 2, 0.25 of its largest value
            1 of 3 tensors differ, at most 0.25 of a tensor's largest value (exp_avg.weight)

            """,
            "",
            Run("diff", two, SaveInShards("changed", [1, 2, 3, 4, 5, 8], at: 2))
        );

        // Whole in one file: only the state tells.
        CheckpointPart part = SavedCheckpoint.Part(10);
        string whole = SavedCheckpoint.Save(
            new CheckpointStore(folder["whole"]),
            part with
            {
                Optimizer =
                [
                    part.Optimizer[0],
                    new StateSlice("exp_avg.weight", null, tensor(new[] { 1f, 2, 3, 4, 5, 6 }).view(2, 3)),
                ],
            }
        )!;
        AssertEnds(
            1,
            "state   optimizer_sharded: true → false\nstate   optimizer_shards: 2 → 1\n"
                + "0 of 3 tensors differ; entries of the state: 2, keys of the configuration: 0\n",
            "",
            Run("diff", two, whole)
        );

        // A part that is missing, with everything else as it was written.
        string holed = SaveInShards("holed", [1, 2, 3, 4, 5, 6], at: 4, secondStart: 5);
        AssertEnds(
            2,
            "",
            $"longnet: The optimizer state of {holed} is not whole: its shards do not make up "
                + "exp_avg.weight. Take another checkpoint.\n",
            Run("diff", two, holed)
        );
    }

    [Fact]
    public void Diff_OfManyTensors_ShowsTheWorstAndAllWhenAsked()
    {
        string first = SaveMany("first", 0),
            second = SaveMany("second", 1);
        string[] few = Run("diff", first, second).Output.TrimEnd().Split('\n'),
            all = Run("diff", first, second, "--all").Output.TrimEnd().Split('\n');
        Assert.Equal(
            [
                .. all.Take(20),
                "        and 5 more, which --all shows",
                "25 of 27 tensors differ, at most 0.25 in a parameter (w25), at most 0.2 of a tensor's "
                    + "largest value (w25)",
            ],
            few
        );
        Assert.Equal(
            Enumerable.Range(1, 25).Reverse().Select(w => $"w{w}"),
            all.SkipLast(1).Select(line => line.Split(' ', ':')[2])
        );

        string SaveMany(string name, float scale) =>
            SavedCheckpoint.Save(
                new CheckpointStore(folder[name]),
                SavedCheckpoint.Part(10) with
                {
                    Model =
                    [
                        .. Enumerable.Range(1, 25).Select(w => ($"w{w}", tensor(new[] { 1f, 1 + w * scale / 100 }))),
                    ],
                }
            )!;
    }

    [Fact]
    public void Diff_OfTwoStepsOfARun_TellsTheCounters()
    {
        ProgramResult result = Run("diff", run["checkpoints/step-00000001"], run.Path);
        Assert.Equal(1, result.ExitCode);
        string[] lines = result.Output.TrimEnd().Split('\n');
        Assert.Equal(
            ["state   step: 1 → 2", "state   sequences_consumed: 4 → 8", "state   tokens_consumed: 2048 → 4096"],
            lines[..3]
        );
        Assert.Matches(
            @"^106 of 106 tensors differ, at most [0-9.E-]+ in a parameter \(\S+\), at most [0-9.E-]+ of a "
                + @"tensor's largest value \(\S+\)$",
            lines[^1]
        );
        // One run, so one configuration.
        Assert.DoesNotContain(lines, line => line.StartsWith("config", StringComparison.Ordinal));
    }

    /// <summary>The specification is https://huggingface.co/docs/safetensors; this reads by it alone.</summary>
    [Fact]
    public void Files_OfARun_AreThoseOfTheSpecification()
    {
        Run("export", run.Path, "--output", folder["exported.safetensors"], "--dtype", "bfloat16").AssertSuccess();
        foreach (
            string path in new[]
            {
                run[$"checkpoints/step-00000002/{Model}"],
                run[$"checkpoints/step-00000002/{Optimizer}"],
                folder["exported.safetensors"],
            }
        )
        {
            byte[] bytes = File.ReadAllBytes(path);
            ulong length = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
            Assert.True(length <= (ulong)bytes.Length - 8);
            Assert.Equal((byte)'{', bytes[8]);
            byte[] text = bytes[8..(8 + (int)length)],
                data = bytes[(8 + (int)length)..];
            // Strict: throws for what is not UTF-8.
            string header = new UTF8Encoding(false, throwOnInvalidBytes: true).GetString(text);
            using JsonDocument document = JsonDocument.Parse(
                header,
                new JsonDocumentOptions { AllowDuplicateProperties = false }
            );
            using SafetensorsReader reader = SafetensorsReader.Open(path);
            long end = 0;
            var tensors = document
                .RootElement.EnumerateObject()
                .Where(property => property.Name != "__metadata__")
                .ToArray();
            Assert.NotEmpty(tensors);
            foreach (
                JsonProperty property in tensors.OrderBy(property =>
                    property.Value.GetProperty("data_offsets")[0].GetInt64()
                )
            )
            {
                Assert.Equal(
                    ["dtype", "shape", "data_offsets"],
                    property.Value.EnumerateObject().Select(entry => entry.Name)
                );
                string type = property.Value.GetProperty("dtype").GetString()!;
                long[] shape =
                [
                    .. property.Value.GetProperty("shape").EnumerateArray().Select(size => size.GetInt64()),
                ];
                long[] offsets =
                [
                    .. property.Value.GetProperty("data_offsets").EnumerateArray().Select(offset => offset.GetInt64()),
                ];
                Assert.Equal(2, offsets.Length);
                // No hole and no overlap, little-endian numbers in row-major order.
                Assert.Equal(end, offsets[0]);
                end = offsets[1];
                int size = type switch
                {
                    "F32" => 4,
                    "BF16" => 2,
                    _ => throw new InvalidOperationException(type),
                };
                Assert.Equal(shape.Aggregate((long)size, (product, axis) => product * axis), end - offsets[0]);
                float[] values = reader.Read(property.Name).to(ScalarType.Float32).data<float>().ToArray();
                for (int v = 0; v < values.Length; v++)
                {
                    ReadOnlySpan<byte> number = data.AsSpan((int)offsets[0] + v * size, size);
                    Assert.Equal(
                        values[v],
                        size == 4
                            ? BinaryPrimitives.ReadSingleLittleEndian(number)
                            : BitConverter.Int32BitsToSingle(BinaryPrimitives.ReadUInt16LittleEndian(number) << 16)
                    );
                }
            }

            Assert.Equal(data.Length, end);
            if (document.RootElement.TryGetProperty("__metadata__", out JsonElement metadata))
                Assert.All(metadata.EnumerateObject(), entry =>
                    Assert.Equal(JsonValueKind.String, entry.Value.ValueKind)
                );
        }
    }

    /// <summary>The names of torchscale's Decoder, without the tied output_projection.weight.</summary>
    [Fact]
    public void Names_OfARun_AreThoseOfTheAuthorsStateDict()
    {
        IEnumerable<string> layer = new[]
        {
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
            "self_attn_layer_norm",
            "ffn.fc1",
            "ffn.fc2",
            "final_layer_norm",
        }.SelectMany(part => new[] { $"{part}.weight", $"{part}.bias" });
        string[] expected =
        [
            "embed_tokens.weight",
            .. new[] { 0, 1 }.SelectMany(number => layer.Select(name => $"layers.{number}.{name}")),
            "layer_norm.weight",
            "layer_norm.bias",
        ];
        using SafetensorsReader model = SafetensorsReader.Open(run[$"checkpoints/step-00000002/{Model}"]);
        Assert.Equal(expected, model.Names);
        using SafetensorsReader optimizer = SafetensorsReader.Open(run[$"checkpoints/step-00000002/{Optimizer}"]);
        Assert.Equal(
            expected.SelectMany(name => new[] { $"exp_avg.{name}", $"exp_avg_sq.{name}" }).Prepend("step").Order(),
            optimizer.Names.Order()
        );
    }

    private static ProgramResult Run(params string[] arguments) => RunWith(null, arguments);

    private static ProgramResult RunWith(Dictionary<string, string?>? environment, params string[] arguments) =>
        ProgramRun.ToEnd(
            TimeSpan.FromMinutes(2),
            Repository.LongNet,
            ["checkpoint", .. arguments],
            environment: environment
        );

    private static void AssertEnds(int code, string output, string error, ProgramResult result)
    {
        Assert.Equal(error, result.Error);
        Assert.Equal(output, result.Output);
        Assert.Equal(code, result.ExitCode);
    }

    private static long Length(string checkpoint, string file) => new FileInfo(Path.Combine(checkpoint, file)).Length;

    private static string Digest(byte[] bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    private static void Copy(string from, string to)
    {
        Directory.CreateDirectory(to);
        foreach (string file in Directory.GetFiles(from))
            File.Copy(file, Path.Combine(to, Path.GetFileName(file)));
    }

    private string Save(long step) => SavedCheckpoint.Save(Store, SavedCheckpoint.Part(step))!;

    private string SaveWeights(string name, params float[] values) =>
        SavedCheckpoint.Save(
            new CheckpointStore(folder[name]),
            SavedCheckpoint.Part(10) with
            {
                Model = [("weight", tensor(values).view(2, 3))],
            }
        )!;

    // The moment's elements before a place on one rank, the others on another.
    private string SaveInShards(string name, float[] moment, int at, int? secondStart = null)
    {
        var partial = new PartialCheckpoint(folder[name], CheckpointStore.NameOf(10), FileOperations.Real);
        partial.Create(0);
        StateSlice[][] shards =
        [
            [new("step", null, tensor(10f)), new("exp_avg.weight", 0, tensor(moment[..at]))],
            [new("exp_avg.weight", secondStart ?? at, tensor(moment[at..]))],
        ];
        return partial.Complete(
            SavedCheckpoint.Manifest(10) with
            {
                OptimizerSharded = true,
                OptimizerShards = shards.Length,
                Files =
                [
                    partial.WriteTensors(Model, SavedCheckpoint.Part(10).Model),
                    .. shards.Select(
                        (slices, rank) =>
                            partial.WriteTensors(
                                OptimizerShard.FileName(rank, shards.Length),
                                slices.Select(slice => (slice.Name, slice.Value)),
                                OptimizerShard.Metadata(slices)
                            )
                    ),
                ],
            }
        );
    }

    /// <summary>Two steps of configs/ranks-agree.yaml, with a checkpoint after each.</summary>
    public sealed class TrainedRun : IDisposable
    {
        private readonly TemporaryFolder folder = new();

        public TrainedRun() =>
            TrainingJob.RanksAgree(
                MpiKind.None,
                1,
                1,
                Path,
                "--steps",
                "2",
                "--set",
                "checkpoint.every_steps=1",
                "--set",
                "evaluation.every_steps=1"
            );

        public string Path => folder["run"];

        public string this[string relative] => System.IO.Path.Combine(Path, relative);

        public void Dispose() => folder.Dispose();
    }
}
