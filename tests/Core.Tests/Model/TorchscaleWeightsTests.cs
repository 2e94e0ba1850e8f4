using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Core.Model.Torchscale;
using LongNet.Core.Serialization;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Model;

public sealed class TorchscaleWeightsTests : IDisposable
{
    private static readonly LongNetConfig Config = new()
    {
        Layers = 2,
        DModel = 32,
        Heads = 4,
        FeedForward = 48,
        Vocabulary = 256,
        Schedule = new SegmentSchedule(new Branch(8, 1), new Branch(24, 2)),
        HeadOffsets = HeadOffsets.Blocked,
    };

    private static readonly RelativePositionBuckets Buckets = new(16, 40, Bidirectional: false);

    private readonly TemporaryFolder folder = new();
    private readonly DisposeScope scope = NewDisposeScope();

    private string Path => folder["weights.safetensors"];

    public void Dispose()
    {
        scope.Dispose();
        folder.Dispose();
    }

    [Theory]
    [InlineData(true, false, PositionEncoding.XPos, HeadOffsets.Blocked)]
    [InlineData(true, true, PositionEncoding.Rope, HeadOffsets.Interleaved)]
    [InlineData(false, false, PositionEncoding.None, HeadOffsets.Interleaved)]
    [InlineData(false, true, PositionEncoding.XPos, HeadOffsets.Blocked)]
    public void Model_SavedAndLoaded_IsTheSameToTheBit(
        bool tied,
        bool normalized,
        PositionEncoding positions,
        HeadOffsets offsets
    )
    {
        LongNetConfig config = Config with
        {
            TieEmbeddings = tied,
            SubLayerNorm = normalized,
            Positions = positions,
            HeadOffsets = offsets,
            RelativePositionBias = normalized ? Buckets : null,
        };
        using LongNetLanguageModel saved = Model(config, seed: 1),
            loaded = Model(config, seed: 2);
        TorchscaleWeights.Save(saved, Path);
        Assert.Empty(TorchscaleWeights.Load(loaded, Path));
        AssertSame(saved, loaded);
        Tensor tokens = randint(0, 256, [2, 40], dtype: int64);
        Assert.True(saved.forward(tokens).eq(loaded.forward(tokens)).all().item<bool>());
    }

    /// <summary>
    /// What a strict reader of a decoder there expects, name by name; the constants are those of its xPos.
    /// </summary>
    [Fact]
    public void Model_Saved_HasEveryNameThatTheAuthorsDecoderHas()
    {
        using LongNetLanguageModel model = Model(Config with { SubLayerNorm = true, Layers = 1 }, seed: 1);
        TorchscaleWeights.Save(model, Path);
        using SafetensorsReader reader = SafetensorsReader.Open(Path);
        string[] layer =
        [
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.q_proj",
            "self_attn.out_proj",
            "self_attn.inner_attn_ln",
            "self_attn_layer_norm",
            "ffn.fc1",
            "ffn.fc2",
            "ffn.ffn_layernorm",
            "final_layer_norm",
        ];
        Assert.Equal(
            new[]
            {
                "embed_tokens.weight",
                "output_projection.weight",
                "layer_norm.weight",
                "layer_norm.bias",
                "layers.0.self_attn.xpos.scale",
            }
                .Concat(layer.SelectMany(name => new[] { $"layers.0.{name}.weight", $"layers.0.{name}.bias" }))
                .Order(StringComparer.Ordinal),
            reader.Names.Order(StringComparer.Ordinal)
        );
        Assert.True(reader.Read("output_projection.weight").eq(reader.Read("embed_tokens.weight")).all().item<bool>());
        // (arange(0, 8, 2) + 0.4 · 8) / (1.4 · 8), to the rounding of float32.
        Compare.AssertClose(
            reader.Read("layers.0.self_attn.xpos.scale"),
            tensor(new[] { 3.2 / 11.2, 5.2 / 11.2, 7.2 / 11.2, 9.2 / 11.2 }),
            1e-7,
            "scale"
        );
        Assert.Equal(
            ("4", "blocked", "xpos"),
            (
                reader.Metadata["longnet.heads"],
                reader.Metadata["longnet.head_offsets"],
                reader.Metadata["longnet.positions"]
            )
        );
    }

    [Theory]
    [InlineData("decoder.")]
    [InlineData("module.")]
    [InlineData("model.decoder.")]
    [InlineData("module.model.decoder.")]
    public void Load_NamesInWrappers_AreUnwrapped(string wrapper)
    {
        using LongNetLanguageModel saved = Model(Config, seed: 1),
            loaded = Model(Config, seed: 2);
        Write([
            .. Tensors(saved).Select(entry => KeyValuePair.Create(wrapper + entry.Key, entry.Value)),
            KeyValuePair.Create(wrapper + "version", tensor(new[] { 3f })),
        ]);
        Assert.Empty(TorchscaleWeights.Load(loaded, Path));
        AssertSame(saved, loaded);
    }

    [Fact]
    public void Load_MultiwayNetworks_TakesTheFirstBranchAndNamesTheOther()
    {
        using LongNetLanguageModel saved = Model(Config with { SubLayerNorm = true }, seed: 1),
            loaded = Model(Config with { SubLayerNorm = true }, seed: 2);
        var tensors = new List<KeyValuePair<string, Tensor>>();
        foreach (var (name, value) in Tensors(saved))
        {
            bool wrapped = name.Contains(".self_attn.", StringComparison.Ordinal);
            int end = name.LastIndexOf('.');
            tensors.Add(KeyValuePair.Create(wrapped ? name[..end] + ".A" + name[end..] : name, value));
            if (wrapped)
                tensors.Add(KeyValuePair.Create(name[..end] + ".B" + name[end..], value + 1));
        }

        Write(tensors);
        Assert.Equal(
            [
                $"{Path} holds 20 tensors of second Multiway branches, such as "
                    + "layers.0.self_attn.q_proj.B.weight, which are left out.",
            ],
            TorchscaleWeights.Load(loaded, Path)
        );
        AssertSame(saved, loaded);
    }

    [Theory]
    [InlineData(ScalarType.Float16)]
    [InlineData(ScalarType.BFloat16)]
    [InlineData(ScalarType.Float64)]
    public void Load_AnotherType_IsConverted(ScalarType type)
    {
        using LongNetLanguageModel saved = Model(Config, seed: 1),
            loaded = Model(Config, seed: 2);
        Write([.. Tensors(saved).Select(entry => KeyValuePair.Create(entry.Key, entry.Value.to(type)))]);
        TorchscaleWeights.Load(loaded, Path);
        foreach (var (name, parameter) in loaded.named_parameters())
        {
            Assert.Equal(ScalarType.Float32, parameter.dtype);
            Assert.True(parameter.eq(saved.get_parameter(name)!.to(type).to(float32)).all().item<bool>(), name);
        }
    }

    [Theory]
    [InlineData("embed_tokens.weight")]
    [InlineData("output_projection.weight")]
    public void Load_TiedUnderOneName_IsTaken(string kept)
    {
        using LongNetLanguageModel saved = Model(Config, seed: 1),
            loaded = Model(Config, seed: 2);
        Write([
            .. Tensors(saved)
                .Select(entry => entry.Key == "embed_tokens.weight" ? KeyValuePair.Create(kept, entry.Value) : entry),
        ]);
        TorchscaleWeights.Load(loaded, Path);
        AssertSame(saved, loaded);
    }

    [Fact]
    public void Attention_SavedAndLoaded_IsTheSameToTheBit()
    {
        foreach (bool normalized in new[] { true, false })
        {
            using DilatedAttention saved = Attention(normalized),
                loaded = Attention(normalized);
            TorchscaleWeights.Save(saved, Path);
            Assert.Empty(TorchscaleWeights.Load(loaded, Path));
            Tensor x = randn(2, 30, 32);
            Assert.True(saved.forward(x).eq(loaded.forward(x)).all().item<bool>());
        }
    }

    [Fact]
    public void Attention_FromOneLayerOfAModel_TakesThatLayer()
    {
        using LongNetLanguageModel model = Model(Config with { SubLayerNorm = true }, seed: 1);
        TorchscaleWeights.Save(model, Path);
        using DilatedAttention attention = Attention(true);
        TorchscaleWeights.Load(attention, Path, prefix: "layers.1.self_attn.");
        foreach (var (name, parameter) in attention.named_parameters())
            Assert.True(parameter.eq(model.get_parameter($"layers.1.self_attn.{name}")!).all().item<bool>(), name);
        AssertRefused(
            "PATH does not fit this attention: it lacks layers.2.self_attn.q_proj.weight, "
                + "layers.2.self_attn.q_proj.bias, layers.2.self_attn.k_proj.weight and 5 more. "
                + "Give the weights of an attention of this shape.",
            () => TorchscaleWeights.Load(Attention(false), Path, prefix: "layers.2.self_attn.")
        );
        AssertRefused(
            "PATH does not fit this attention: it also holds layers.1.self_attn.inner_attn_ln.weight, "
                + "layers.1.self_attn.inner_attn_ln.bias. Set subLayerNorm: true.",
            () => TorchscaleWeights.Load(Attention(false), Path, prefix: "layers.1.self_attn.")
        );
    }

    /// <summary>A model of another shape, and the whole message.</summary>
    public static TheoryData<string, string> Misfits =>
        new()
        {
            {
                "sub-LN",
                "it also holds layers.0.self_attn.inner_attn_ln.weight, "
                    + "layers.0.self_attn.inner_attn_ln.bias, layers.0.ffn.ffn_layernorm.weight and 5 more. Set "
                    + "model.sub_layer_norm: true."
            },
            {
                "layers",
                "it also holds layers.2.self_attn.q_proj.weight, layers.2.self_attn.q_proj.bias, "
                    + "layers.2.self_attn.k_proj.weight and 13 more. Set model.layers: 3."
            },
            { "untied", "it also holds output_projection.weight" },
            {
                "vocabulary",
                "it has other shapes: embed_tokens.weight [300, 32] instead of [256, 32]. Set model.vocabulary: 300."
            },
            {
                "feed-forward",
                "it has other shapes: layers.0.ffn.fc1.weight [64, 32] instead of [48, 32], "
                    + "layers.0.ffn.fc1.bias [64] instead of [48], layers.0.ffn.fc2.weight [32, 64] instead of "
                    + "[32, 48] and 3 more. "
                    + "Set model.feed_forward: 64."
            },
            { "heads", "it has 8 heads instead of 4. Set model.heads: 8." },
            {
                "relative position bias",
                "it also holds self_attn_relative_position.relative_attention_bias.weight. Set "
                    + "model.attention.relative_position_bias: true."
            },
        };

    [Theory]
    [MemberData(nameof(Misfits))]
    public void Load_AnotherModels_SaysWhatToSetAndChangesNothing(string what, string message)
    {
        LongNetConfig config = what switch
        {
            "sub-LN" => Config with { SubLayerNorm = true },
            "layers" => Config with { Layers = 3 },
            "untied" => Config with { TieEmbeddings = false },
            "vocabulary" => Config with { Vocabulary = 300 },
            "feed-forward" => Config with { FeedForward = 64 },
            "relative position bias" => Config with { RelativePositionBias = Buckets },
            _ => Config with { Heads = 8 },
        };
        using LongNetLanguageModel saved = Model(config, seed: 1),
            loaded = Model(Config, seed: 2),
            untouched = Model(Config, seed: 2);
        TorchscaleWeights.Save(saved, Path);
        string expected =
            what == "untied"
                ? $"{Path} holds output_projection.weight and embed_tokens.weight with different values, but "
                    + "this model has one tensor for both: set model.tie_embeddings: false."
                : $"{Path} does not fit this model: {message}";
        Assert.Equal(expected, Assert.Throws<UserException>(() => TorchscaleWeights.Load(loaded, Path)).Message);
        AssertSame(untouched, loaded);
    }

    [Fact]
    public void Load_OfLess_SaysWhatToSet()
    {
        using LongNetLanguageModel saved = Model(Config, seed: 1);
        Write(Tensors(saved));
        AssertRefused(
            "PATH does not fit this model: it lacks layers.0.self_attn.inner_attn_ln.weight, "
                + "layers.0.self_attn.inner_attn_ln.bias, layers.0.ffn.ffn_layernorm.weight and 6 more. "
                + "Set model.sub_layer_norm: false, model.tie_embeddings: true.",
            () =>
                TorchscaleWeights.Load(Model(Config with { SubLayerNorm = true, TieEmbeddings = false }, seed: 2), Path)
        );
        Write([.. Tensors(saved).Where(entry => !entry.Key.StartsWith("layer_norm", StringComparison.Ordinal))]);
        AssertRefused(
            "PATH does not fit this model: it lacks layer_norm.weight, layer_norm.bias; it normalizes "
                + "after each part, and models here before it. Give the weights of a model of this shape.",
            () => TorchscaleWeights.Load(Model(Config, seed: 2), Path)
        );
    }

    [Theory]
    [InlineData("decoder.embed_positions.weight", "learned or sinusoidal position embeddings")]
    [InlineData("layernorm_embedding.weight", "a LayerNorm of the embeddings")]
    [InlineData("encoder.layers.0.fc1.weight", "an encoder")]
    [InlineData("decoder.layers.0.encoder_attn.q_proj.weight", "attention to an encoder")]
    [InlineData("layers.1.moe_layer.gate.wg.weight", "a mixture of experts")]
    public void Load_PartsThatAreNotHere_AreRefusedByName(string name, string what)
    {
        using LongNetLanguageModel model = Model(Config, seed: 1);
        Write([.. Tensors(model), KeyValuePair.Create(name, zeros(2, 32))]);
        AssertRefused(
            $"PATH holds {name}, which belongs to {what}, and the models here have none: give the weights "
                + "of a decoder without.",
            () => TorchscaleWeights.Load(model, Path)
        );
    }

    [Fact]
    public void Load_DamagedOrDoubleTensors_AreRefused()
    {
        using LongNetLanguageModel loaded = Model(Config, seed: 2),
            untouched = Model(Config, seed: 2);
        List<KeyValuePair<string, Tensor>> good = Tensors(Model(Config, seed: 1));
        Write([.. good, KeyValuePair.Create("decoder.layer_norm.bias", zeros(32))]);
        AssertRefused(
            "PATH holds both layer_norm.bias and decoder.layer_norm.bias, which are one parameter here: "
                + "remove one of them.",
            () => TorchscaleWeights.Load(loaded, Path)
        );
        // The last of all, so that the others have been read.
        Write(With("layer_norm.bias", full(32, double.NaN)));
        AssertRefused(
            "PATH holds layer_norm.bias with values that are not finite in Float32: give a file that is "
                + "not damaged, or one of a wider type.",
            () => TorchscaleWeights.Load(loaded, Path)
        );
        Write(With("layer_norm.bias", zeros(32, dtype: int64)));
        AssertRefused(
            "PATH does not fit this model: it has no floating-point numbers in layer_norm.bias (Int64). "
                + "Give the weights of a model of this shape.",
            () => TorchscaleWeights.Load(loaded, Path)
        );
        Write(With("something.else", zeros(3)));
        AssertRefused(
            "PATH does not fit this model: it lacks layer_norm.bias; it also holds something.else. Give "
                + "the weights of a model of this shape.",
            () => TorchscaleWeights.Load(loaded, Path)
        );
        AssertSame(untouched, loaded);

        List<KeyValuePair<string, Tensor>> With(string name, Tensor value) =>
            [.. good.Where(entry => entry.Key != "layer_norm.bias"), KeyValuePair.Create(name, value)];
    }

    [Fact]
    public void Load_SettingsThatNamesDoNotTell_AreNoted()
    {
        using LongNetLanguageModel saved = Model(Config, seed: 1),
            loaded = Model(
                Config with
                {
                    HeadOffsets = HeadOffsets.Interleaved,
                    Positions = PositionEncoding.Rope,
                },
                seed: 2
            );
        Write([.. Tensors(saved), KeyValuePair.Create("layers.0.self_attn.xpos.scale", zeros(4))]);
        Assert.Equal(
            [
                $"{Path} does not say its head offsets: if the authors' Python code trained it, set "
                    + "model.attention.head_offsets: blocked.",
                $"{Path} holds layers.0.self_attn.xpos.scale, so it was trained with xPos, and this model has rope.",
            ],
            TorchscaleWeights.Load(loaded, Path)
        );
        TorchscaleWeights.Save(saved, Path);
        Assert.Equal(
            [
                $"{Path} was saved with head offsets blocked, and this model has interleaved.",
                $"{Path} was saved with positions xpos, and this model has rope.",
            ],
            TorchscaleWeights.Load(loaded, Path)
        );

        using LongNetLanguageModel biased = Model(Config with { RelativePositionBias = Buckets }, seed: 1);
        using LongNetLanguageModel otherwise = Model(
            Config with
            {
                RelativePositionBias = Buckets with { MaxDistance = 50 },
            },
            seed: 2
        );
        TorchscaleWeights.Save(biased, Path);
        Assert.Equal(
            [
                $"{Path} was saved with relative positions in 16 one-way buckets up to 40, and this model has "
                    + "16 one-way buckets up to 50.",
            ],
            TorchscaleWeights.Load(otherwise, Path)
        );
        Write(Tensors(biased));
        Assert.Equal(
            [
                $"{Path} does not say how distances share its relative position biases: if the authors' "
                    + "Python code trained it, set "
                    + "model.attention.relative_position_bidirectional: true, and "
                    + "model.attention.relative_position_max_distance to its max_rel_pos.",
            ],
            TorchscaleWeights.Load(otherwise, Path)
        );

        // 2 pairs per head are 8 heads of 32 channels.
        Write([.. Tensors(saved), KeyValuePair.Create("layers.0.self_attn.xpos.scale", zeros(2))]);
        AssertRefused("PATH does not fit this model: it has 8 heads instead of 4. Set model.heads: 8.", () =>
            TorchscaleWeights.Load(loaded, Path)
        );
    }

    // Parameters that no initialisation gives, so that nothing is equal by chance.
    private static LongNetLanguageModel Model(LongNetConfig config, long seed)
    {
        using var noGradient = no_grad();
        using var generator = new Generator((ulong)seed);
        var model = new LongNetLanguageModel(config, seed);
        foreach (var (_, parameter) in model.named_parameters())
            parameter.add_(randn(parameter.shape, generator: generator) * 0.1);
        model.eval();
        return model;
    }

    private static DilatedAttention Attention(bool normalized) =>
        new(
            new DilatedAttentionOptions
            {
                Channels = 32,
                Heads = 4,
                Branches = [new(8, 1), new(24, 2)],
                Causal = true,
                Positions = PositionEncoding.XPos,
                HeadOffsets = HeadOffsets.Blocked,
                SubLayerNorm = normalized,
            }
        );

    private static List<KeyValuePair<string, Tensor>> Tensors(nn.Module module) =>
        [.. module.named_parameters().Select(entry => KeyValuePair.Create(entry.name, entry.parameter.detach()))];

    private static void AssertSame(LongNetLanguageModel expected, LongNetLanguageModel actual)
    {
        Assert.Equal(
            expected.named_parameters().Select(entry => entry.name),
            actual.named_parameters().Select(entry => entry.name)
        );
        foreach (var (name, parameter) in expected.named_parameters())
            Assert.True(parameter.eq(actual.get_parameter(name)!).all().item<bool>(), name);
    }

    private void Write(IReadOnlyList<KeyValuePair<string, Tensor>> tensors) => SafetensorsWriter.Write(Path, tensors);

    private void AssertRefused(string message, Func<object> mistake) =>
        Assert.Equal(
            message.Replace("PATH", Path, StringComparison.Ordinal),
            Assert.Throws<UserException>(mistake).Message
        );
}
