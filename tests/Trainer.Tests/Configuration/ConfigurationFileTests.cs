using System.Text.Json;
using System.Text.Json.Nodes;
using CsCheck;
using LongNet.Core;
using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.TestKit;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Loop;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Configuration;

public sealed class ConfigurationFileTests : IDisposable
{
    private const string Valid = """
        model:
          layers: 2
          d_model: 64
          heads: 4
          attention:
            segment_lengths: [64, 128]
            dilation_rates: [1, 2]
        data:
          path: text
        optimizer:
          lr: 1e-3
        training:
          steps: 20
          sequence_length: 128
        """;

    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void Load_OnlyRequiredKeys_FillsInTheRest()
    {
        RunConfig config = Load(Valid);
        Assert.Equal("run", config.Name);
        Assert.Equal("runs/run", config.Output);
        Assert.Equal(1, config.Seed);
        Assert.Equal(256, config.Model.FeedForward);
        Assert.Equal(256, config.Model.Vocabulary);
        Assert.Equal(PositionEncoding.XPos, config.Model.Positions);
        Assert.Equal(HeadOffsets.Interleaved, config.Model.Attention.HeadOffsets);
        Assert.Equal(MixingGradient.Exact, config.Model.Attention.MixingGradient);
        Assert.Equal(1e-4, config.Optimizer.MinLr!.Value, 1e-18);
        Assert.Equal(20, config.Optimizer.DecaySteps);
        Assert.Equal([folder["text"]], config.Data.Path);
        Assert.False(config.Model.SubLayerNorm);
        Assert.Null(config.Model.InitialWeights);
        Assert.Null(config.Parallel.Sequence);
        Assert.Null(config.Training.MicroBatchSize);
    }

    [Fact]
    public void Load_Overrides_WinOverTheFile()
    {
        RunConfig config = Load(
            Valid,
            "optimizer.lr=3e-4",
            "parallel.sequence=2",
            "parallel.data=auto",
            "model.attention.dilation_rates=[1, 4]",
            "model.attention.head_offsets=blocked",
            "name=other",
            "model.tie_embeddings=false"
        );
        Assert.Equal(3e-4, config.Optimizer.Lr);
        Assert.Equal(2, config.Parallel.Sequence);
        Assert.Null(config.Parallel.Data);
        Assert.Equal([1, 4], config.Model.Attention.DilationRates);
        Assert.Equal([64, 128], config.Model.Attention.SegmentLengths);
        Assert.Equal(HeadOffsets.Blocked, config.Model.Attention.HeadOffsets);
        Assert.Equal("runs/other", config.Output);
        Assert.False(config.Model.TieEmbeddings);
    }

    [Fact]
    public void Load_InitialWeights_LieBesideTheFileOrWhereTheyAreTyped()
    {
        RunConfig config = Load(
            Valid.Replace(
                "heads: 4",
                "heads: 4\n  initial_weights: ../start.safetensors\n  sub_layer_norm: true",
                StringComparison.Ordinal
            )
        );
        Assert.Equal(Path.GetFullPath(folder["../start.safetensors"]), config.Model.InitialWeights);
        Assert.True(config.Model.ToModel().SubLayerNorm);
        Assert.Equal(config.Model.InitialWeights, Load(ConfigurationText.ToYaml(config)).Model.InitialWeights);
        Assert.Equal(
            Path.GetFullPath("start.safetensors"),
            Load(Valid, "model.initial_weights=start.safetensors").Model.InitialWeights
        );
    }

    [Fact]
    public void Load_RelativePositionBias_IsTheModels()
    {
        Assert.Null(Load(Valid, "model.attention.relative_position_buckets=16").Model.ToModel().RelativePositionBias);
        RunConfig config = Load(
            Valid,
            "model.attention.relative_position_bias=true",
            "model.attention.relative_position_buckets=16"
        );
        Assert.Equal(
            new RelativePositionBuckets(16, 128, Bidirectional: false),
            config.Model.ToModel().RelativePositionBias
        );
        config = Load(
            Valid,
            "model.attention.relative_position_bias=true",
            "model.attention.relative_position_bidirectional=true"
        );
        Assert.Equal(
            new RelativePositionBuckets(32, 128, Bidirectional: true),
            config.Model.ToModel().RelativePositionBias
        );
    }

    [Fact]
    public void Load_PrecisionAndMemory_AreTheModelsExecution()
    {
        RunConfig config = Load(Valid);
        Assert.Equal(new ModelExecution(), config.ToExecution());
        Assert.Empty(ConfigurationChanges.PrecisionAndMemory(config));

        config = Load(
            Valid,
            "precision.compute=bfloat16",
            "memory.recompute=full",
            "memory.offload=disk",
            "memory.offload_directory=/fast",
            "memory.tile_rows=64",
            "memory.loss_rows=1024"
        );
        Assert.Equal(
            new ModelExecution
            {
                ComputeType = ScalarType.BFloat16,
                Recompute = Recompute.Full,
                TileRows = 64,
                LossRows = 1024,
                OffloadFolder = "/fast",
            },
            config.ToExecution()
        );
        Assert.Equal(
            [
                "precision.compute bfloat16",
                "memory.recompute full",
                "memory.offload disk",
                "memory.offload_directory /fast",
                "memory.tile_rows 64",
                "memory.loss_rows 1024",
            ],
            ConfigurationChanges.PrecisionAndMemory(config)
        );
        Assert.Equal(config.ToExecution(), Load(ConfigurationText.ToYaml(config)).ToExecution());
        Assert.Equal(ScalarType.Float16, Load(Valid, "precision.compute=float16").ToExecution().ComputeType);
    }

    // 8192 rows are 16 times 512, and from their middle half of that: exponents of 8 · ln 3.5.
    [Fact]
    public void Create_XPosInFloat16_HasItsSmallerRange()
    {
        string[] long8192 =
        [
            "training.sequence_length=8192",
            "model.attention.segment_lengths=[8192]",
            "model.attention.dilation_rates=[1]",
        ];
        folder.Write("text", new string('a', 20_000));
        foreach (string compute in new[] { "float32", "bfloat16" })
            Assert.Equal(1, RunPlan.Open(Load(Valid, [.. long8192, $"precision.compute={compute}"]), 1).SequenceRanks);
        Assert.Equal(
            "xPos over blocks of 8192 rows (the least common multiple of the segment lengths, or the whole "
                + "sequence) needs scales up to e^10, more than Float16 holds; "
                + "blocks of at most 3269 rows work: shorten the longest segment or choose segment lengths "
                + "that divide it.",
            Assert
                .Throws<UserException>(() => RunPlan.Open(Load(Valid, [.. long8192, "precision.compute=float16"]), 1))
                .Message
        );
    }

    [Fact]
    public void ToYaml_OfALoadedConfiguration_ReadsBackEqual()
    {
        string text = ConfigurationText.ToYaml(
            Load(Valid, "optimizer.lr=0.1234567890123456789", "training.micro_batch_size=auto")
        );
        Assert.Equal(text, ConfigurationText.ToYaml(Load(text)));
        Assert.Null(Load(text).Model.InitialWeights);
        Assert.Equal(0.1234567890123456789, Load(text).Optimizer.Lr);
    }

    [Theory]
    [InlineData(
        "heads: 4",
        "haeds: 4",
        "FILE, line 4: unknown key \"model.haeds\"; did you mean \"model.heads\"?\nFILE, line 2: the key "
            + "\"model.heads\" is required and missing."
    )]
    [InlineData(
        "training:",
        "trainnig:",
        "FILE, line 12: unknown key \"trainnig\"; did you mean \"training\"?\nFILE: the key "
            + "\"training.steps\" is required and missing.\nFILE: the key \"training.sequence_length\" is "
            + "required and missing."
    )]
    [InlineData("layers: 2", "layers: two", "FILE, line 2: model.layers is \"two\", but must be a whole number.")]
    [InlineData("layers: 2", "layers: 2.5", "FILE, line 2: model.layers is \"2.5\", but must be a whole number.")]
    [InlineData("layers: 2", "layers: 0", "model.layers is 0, but must be at least 1.")]
    [InlineData("lr: 1e-3", "lr: .nan", "FILE, line 11: optimizer.lr is \".nan\", but must be a number.")]
    [InlineData(
        "lr: 1e-3",
        "lr: -1",
        "optimizer.lr is -1, but must be above 0.\noptimizer.min_lr is -0.1, but must be at least 0."
    )]
    [InlineData("heads: 4", "heads: 5", "model.heads (5) must divide model.d_model (64): 4 heads would.")]
    [InlineData(
        "heads: 4",
        "heads: 64",
        "model.positions is xpos, which rotates pairs of channels, but a head has 1: make d_model / heads "
            + "even, or set positions: none."
    )]
    [InlineData(
        "heads: 4",
        "heads: 4\n  positions: alibi",
        "FILE, line 5: model.positions is \"alibi\", but must be none or xpos or rope."
    )]
    [InlineData("heads: 4", "heads: 4\n  dropout: 1", "model.dropout is 1, but must be at least 0 and below 1.")]
    [InlineData(
        "[1, 2]",
        "[1]",
        "model.attention has 2 segment_lengths and 1 dilation_rates: give one of each per branch."
    )]
    [InlineData("[1, 2]", "[1, 0]", "model.attention.dilation_rates is [1, 0], but every rate must be at least 1.")]
    [InlineData(
        "[1, 2]",
        "[1, x]",
        "FILE, line 7: model.attention.dilation_rates is \"x\", but must be a whole number."
    )]
    [InlineData(
        "[1, 2]",
        "[1, 2]\n    relative_position_bias: true\n    relative_position_buckets: 1",
        "model.attention.relative_position_buckets is 1, but must be at least 2."
    )]
    [InlineData(
        "[1, 2]",
        "[1, 2]\n    relative_position_bias: true\n    relative_position_max_distance: 16",
        "model.attention.relative_position_max_distance is 16, but must be above 16, the distances that 32 "
            + "buckets tell apart one by one: raise it, or take fewer buckets."
    )]
    [InlineData("path: text", "path: []", "data.path is empty: name a file, a directory or a glob of text.")]
    [InlineData(
        "path: text",
        "path: text\n  tokenizer: /bpe",
        "data.tokenizer is /bpe, but must be byte, or a file whose name ends in .json (Hugging Face's "
            + "tokenizer.json) or .tiktoken."
    )]
    [InlineData(
        "steps: 20",
        "steps: 20\n  time_limit_minutes: 0",
        "training.time_limit_minutes is 0, but must be above 0 and at most 100000000, or auto for no limit."
    )]
    [InlineData(
        "training:",
        "memory:\n  offload: disk\ntraining:",
        "memory.offload is disk, but memory.recompute is none, and only what recomputed blocks keep can be "
            + "offloaded: set memory.recompute to block or full."
    )]
    [InlineData(
        "training:",
        "memory:\n  offload_directory: /fast\ntraining:",
        "memory.offload_directory is /fast, but memory.offload is none, so no file is written there: set "
            + "memory.offload to disk."
    )]
    [InlineData(
        "training:",
        "memory:\n  recompute: full\n  offload: disk\n  offload_directory: ' '\ntraining:",
        "memory.offload_directory is empty: name a folder, or leave the key out."
    )]
    [InlineData(
        "training:",
        "memory:\n  tile_rows: 64\ntraining:",
        "memory.tile_rows is 64, but memory.recompute is none, and only recomputed blocks work in tiles: "
            + "set memory.recompute to block or full."
    )]
    [InlineData(
        "training:",
        "memory:\n  recompute: block\n  tile_rows: 0\ntraining:",
        "memory.tile_rows is 0, but must be at least 1."
    )]
    [InlineData(
        "training:",
        "memory:\n  loss_rows: 1099511627777\ntraining:",
        "memory.loss_rows is 1099511627777, but must be at most 1099511627776."
    )]
    [InlineData(
        "training:",
        "memory:\n  recompute: some\ntraining:",
        "FILE, line 13: memory.recompute is \"some\", but must be none or block or full."
    )]
    [InlineData(
        "training:",
        "precision:\n  compute: float8\ntraining:",
        "FILE, line 13: precision.compute is \"float8\", but must be float32 or bfloat16 or float16."
    )]
    [InlineData(
        "training:",
        "precision:\n  reduce: bfloat16\ntraining:",
        "FILE, line 13: precision.reduce is \"bfloat16\", but must be float32."
    )]
    [InlineData(
        "lr: 1e-3",
        "lr: 1e-3\n  betas: 0.9",
        "optimizer.betas is [0.9], but must be two numbers at least 0 and below 1, such as [0.9, 0.95]."
    )]
    public void Load_OneMistake_IsNamedWithWhatWouldWork(string correct, string mistaken, string message)
    {
        string text = Valid.Replace(correct, mistaken, StringComparison.Ordinal);
        Assert.NotEqual(Valid, text);
        Assert.Equal(
            message.Replace("FILE", Shown, StringComparison.Ordinal),
            Assert.Throws<UserException>(() => Load(text)).Message
        );
    }

    [Fact]
    public void Load_SeveralMistakes_AreToldAtOnce()
    {
        var error = Assert.Throws<UserException>(() =>
            Load(Valid, "training.steps=0", "optimizer.lr=0", "model.heads=7")
        );
        Assert.Equal(
            "optimizer.lr is 0, but must be above 0.\n"
                + "optimizer.decay_steps is 0, but must be at least 1.\n"
                + "training.steps is 0, but must be at least 1.\n"
                + "model.heads (7) must divide model.d_model (64): 8 heads would.",
            error.Message
        );
    }

    [Theory]
    [InlineData("model.layers=10001", "model.layers is 10001, but must be at most 10000.")]
    [InlineData("model.vocabulary=16777217", "model.vocabulary is 16777217, but must be at most 16777216.")]
    [InlineData("model.vocabulary=255", "model.vocabulary is 255, but the byte tokenizer needs at least 256.")]
    [InlineData("training.sequence_length=0", "training.sequence_length is 0, but must be at least 1.")]
    [InlineData(
        "training.sequence_length=1099511627777",
        "training.sequence_length is 1099511627777, but must be at most 1099511627776."
    )]
    [InlineData("parallel.timeout_seconds=0.5", "parallel.timeout_seconds is 0.5, but must be between 1 and 1000000.")]
    [InlineData(
        "checkpoint.every_minutes=-1",
        "checkpoint.every_minutes is -1, but must be between 0 and 1000000 (0 turns it off)."
    )]
    [InlineData(
        "optimizer.gradient_clipping=-1",
        "optimizer.gradient_clipping is -1, but must be at least 0 (0 turns it off)."
    )]
    [InlineData("data.validation_fraction=1", "data.validation_fraction is 1, but must be at least 0 and below 1.")]
    [InlineData("optimizer.epsilon=0", "optimizer.epsilon is 0, but must be above 0.")]
    [InlineData("runtime.threads=4097", "runtime.threads is 4097, but must be at most 4096.")]
    public void Load_NumberOutOfRange_IsNamedWithTheRange(string assignment, string message) =>
        Assert.Equal(message, Assert.Throws<UserException>(() => Load(Valid, assignment)).Message);

    [Theory]
    [InlineData("optimizer.lr", "--set optimizer.lr: write --set key.path=value, such as --set optimizer.lr=3e-4.")]
    [InlineData("=3", "--set =3: write --set key.path=value, such as --set optimizer.lr=3e-4.")]
    [InlineData("optimiser.lr=1", "--set optimiser.lr=1: unknown key \"optimiser\"; did you mean \"optimizer\"?")]
    [InlineData("optimizer.lr=[", "--set optimizer.lr=[: the value is not valid YAML.")]
    [InlineData("optimizer.lr=[1]", "--set optimizer.lr=[1]: optimizer.lr is a list, but must be a number.")]
    [InlineData(
        "optimizer=3",
        "--set optimizer=3: optimizer must be a group of keys, such as lr, min_lr, warmup_steps."
    )]
    public void Load_MistakenOverride_IsNamed(string assignment, string message) =>
        Assert.Equal(message, Assert.Throws<UserException>(() => Load(Valid, assignment)).Message);

    [Theory]
    [InlineData(
        "",
        "PATH holds no configuration: it must be a YAML mapping with keys such as model, data and training."
    )]
    [InlineData(
        "- 1\n- 2",
        "PATH holds no configuration: it must be a YAML mapping with keys such as model, data and training."
    )]
    [InlineData("a: 1\na: 2", "PATH, line 2: this is not valid YAML: Duplicate key a")]
    public void Load_NoConfiguration_IsNamed(string text, string message) =>
        Assert.Equal(
            message.Replace("PATH", folder["run.yaml"], StringComparison.Ordinal),
            Assert.Throws<UserException>(() => Load(text)).Message
        );

    [Fact]
    public void Load_AnyText_LoadsOrThrowsAUserException()
    {
        // A valid file with a few characters changed, which reaches deeper than noise does.
        Gen.Select(Gen.Int[0, Valid.Length - 1], Gen.Char["[]{}:,&*!|>'\"%@`#?-\n\t 0aé\0"])
            .Array[1, 6]
            .Sample(
                edits =>
                {
                    char[] text = Valid.ToCharArray();
                    foreach (var (place, character) in edits)
                        text[place] = character;
                    try
                    {
                        Load(new string(text));
                    }
                    catch (UserException) { }
                },
                iter: 3000,
                threads: 1
            );
    }

    [Fact]
    public void Find_NameFromAFolderBelow_LooksInTheNearestConfigs()
    {
        string config = folder.Write("configs/some.yaml", Valid);
        Directory.CreateDirectory(folder["a/b"]);
        Assert.Equal(config, ConfigurationFile.Find("some.yaml", folder["a/b"]));
        Assert.Equal(config, ConfigurationFile.Find("some", folder["a/b"]));
        string here = folder.Write("a/b/some.yaml", Valid);
        Assert.Equal(here, ConfigurationFile.Find("some.yaml", folder["a/b"]));
        Assert.Equal(
            $"There is no configuration other here or in {folder["configs"]}, which has some.yaml.",
            Assert.Throws<UserException>(() => ConfigurationFile.Find("other", folder["a/b"])).Message
        );
    }

    [Fact]
    public void ChangedKeys_OnlyThoseThatChangeWhatIsComputed()
    {
        RunConfig before = Load(Valid),
            after = Load(
                Valid,
                "optimizer.lr=5e-4",
                "optimizer.min_lr=1e-4",
                "model.dropout=0.1",
                "parallel.data=4",
                "checkpoint.every_steps=7",
                "name=other",
                "model.initial_weights=other"
            );
        Assert.Equal(
            ["model.dropout: 0 → 0.1", "optimizer.lr: 0.001 → 0.0005"],
            ConfigurationChanges.ChangedKeys(ConfigurationText.ToJson(before), after)
        );
        Assert.Empty(ConfigurationChanges.ChangedKeys(ConfigurationText.ToJson(before), before));

        // Of a checkpoint that was written before there were these keys.
        JsonObject old = JsonNode.Parse(ConfigurationText.ToJson(before).GetRawText())!.AsObject();
        Assert.True(old.Remove("precision") && old.Remove("memory"));
        Assert.Empty(
            ConfigurationChanges.ChangedKeys(
                JsonElement.Parse(old.ToJsonString()),
                Load(Valid, "memory.recompute=full")
            )
        );
        Assert.Equal(
            ["precision.compute: float32 → bfloat16"],
            ConfigurationChanges.ChangedKeys(
                JsonElement.Parse(old.ToJsonString()),
                Load(Valid, "precision.compute=bfloat16")
            )
        );
    }

    [Fact]
    public void ShippedConfigurations_AllLoad()
    {
        string[] files = Directory.GetFiles(Repository.PathOf("configs"), "*.yaml");
        Assert.Equal(
            ["long-context.yaml", "longnet-small.yaml", "longnet.yaml", "quickstart.yaml", "ranks-agree.yaml"],
            files.Select(Path.GetFileName).Order(StringComparer.Ordinal)
        );
        foreach (string file in files)
        {
            foreach (int ranks in new[] { 1, 2, 4 })
                Assert.Equal(ranks, RunPlan.Open(ConfigurationFile.Load(file, []), ranks).SequenceRanks);
        }
    }

    [Fact]
    public void PaperConfiguration_HasThePapersShape()
    {
        ModelConfig model = ConfigurationFile.Load(Repository.PathOf("configs/longnet.yaml"), []).Model;
        Assert.Equal((12, 768, 12), (model.Layers, model.DModel, model.Heads));
        Assert.Equal([2048, 4096, 8192, 16384, 32768], model.Attention.SegmentLengths);
        Assert.Equal([1, 2, 4, 6, 12], model.Attention.DilationRates);
    }

    private string Shown => Path.GetRelativePath(Directory.GetCurrentDirectory(), folder["run.yaml"]);

    private RunConfig Load(string text, params string[] overrides) =>
        ConfigurationFile.Load(folder.Write("run.yaml", text), overrides);
}
