using LongNet.Core.Attention;
using LongNet.Core.Serialization;
using static TorchSharp.torch;

namespace LongNet.Core.Model.Torchscale;

/// <summary>
/// Weights under the names of the authors' Python code (microsoft/torchscale), as safetensors files: what was trained
/// there is used here, and the other way round.
/// </summary>
/// <remarks>
/// <para>Read as they are: names inside <c>module.</c>, <c>model.</c> and <c>decoder.</c>; Multiway networks, of which
/// the first branch (A) is taken; float64, float32, float16 and bfloat16; a tied output projection under either name or
/// both. Buffers that are not learned (<c>version</c>, xPos's <c>scale</c>) are left out.</para>
/// <para>Names do not tell how a model computes. One that was trained there needs head offsets in blocks, GELU rather
/// than ReLU, embeddings that are not scaled by √d_model, and normalization before each part; docs/semantics.md lists
/// where their code departs.</para>
/// </remarks>
public static class TorchscaleWeights
{
    private const string Embedding = "embed_tokens.weight",
        OutputProjection = "output_projection.weight";
    private const string RelativePositionTable = "self_attn_relative_position.relative_attention_bias.weight";

    // What names and shapes do not tell, kept with the weights that are saved here.
    private const string HeadsKey = "longnet.heads",
        HeadOffsetsKey = "longnet.head_offsets",
        PositionsKey = "longnet.positions",
        BucketsKey = "longnet.relative_position";

    /// <summary>Fills every parameter of a model. Takes as much memory again while it reads.</summary>
    /// <param name="model">Changed in place, whatever its dtype and device; not at all where the file is
    /// refused.</param>
    /// <param name="path">A safetensors file, such as one of <see cref="Save(LongNetLanguageModel, string)"/>, or a
    /// checkpoint's.</param>
    /// <returns>What to look at although the file fits, one sentence each; empty where there is nothing.</returns>
    /// <exception cref="UserException">
    /// The file cannot be read, or a tensor is missing, unexpected, of another shape or not finite; says which and what
    /// to set.
    /// </exception>
    public static IReadOnlyList<string> Load(LongNetLanguageModel model, string path)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(path);
        LongNetConfig config = model.Config;
        return Load(
            path,
            "",
            new Destination(
                [.. model.named_parameters().Select(entry => (entry.name, (Tensor)entry.parameter))],
                config.DModel,
                config.Heads,
                config.Schedule,
                config.HeadOffsets,
                config.Positions,
                config.RelativePositionBias,
                IsModel: true
            )
        );
    }

    /// <summary>
    /// Fills every parameter of an attention that stands alone, from a file of its own or from one layer of a model's.
    /// </summary>
    /// <param name="attention">Changed in place, whatever its dtype and device; not at all where the file is
    /// refused.</param>
    /// <param name="path">A safetensors file.</param>
    /// <param name="prefix">What its names begin with in the file, such as <c>decoder.layers.0.self_attn.</c>; the rest
    /// of the file is not looked at.</param>
    /// <inheritdoc cref="Load(LongNetLanguageModel, string)"/>
    public static IReadOnlyList<string> Load(DilatedAttention attention, string path, string prefix = "")
    {
        ArgumentNullException.ThrowIfNull(attention);
        ArgumentNullException.ThrowIfNull(path);
        ArgumentNullException.ThrowIfNull(prefix);
        return Load(
            path,
            prefix,
            new Destination(
                [.. attention.named_parameters().Select(entry => (entry.name, (Tensor)entry.parameter))],
                attention.get_parameter("q_proj.weight")!.shape[0],
                attention.Heads,
                attention.Pattern.Schedule,
                attention.Pattern.HeadOffsets,
                PositionsOf(attention),
                attention.Bias?.Buckets,
                IsModel: false
            )
        );
    }

    /// <summary>
    /// Writes every parameter, and what a strict reader there expects besides: a tied output projection and xPos's
    /// buffers.
    /// </summary>
    /// <param name="model">Not changed.</param>
    /// <param name="path">File to write, whole or not at all; its folder must exist.</param>
    /// <exception cref="UserException">The file cannot be written.</exception>
    public static void Save(LongNetLanguageModel model, string path)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentNullException.ThrowIfNull(path);
        using var scope = NewDisposeScope();
        LongNetConfig config = model.Config;
        var tensors = model
            .named_parameters()
            .Select(entry => KeyValuePair.Create(entry.name, (Tensor)entry.parameter))
            .ToList();
        if (config.TieEmbeddings)
            tensors.Add(KeyValuePair.Create(OutputProjection, tensors.Single(entry => entry.Key == Embedding).Value));
        for (long layer = 0; config.Positions == PositionEncoding.XPos && layer < config.Layers; layer++)
            tensors.Add(
                KeyValuePair.Create($"layers.{layer}.self_attn.xpos.scale", DecayOfPairs(config.DModel / config.Heads))
            );
        SafetensorsWriter.Write(path, tensors, Metadata(config));
    }

    /// <summary>
    /// Writes every parameter of an attention that stands alone, and xPos's buffer where it has xPos.
    /// </summary>
    /// <param name="attention">Not changed.</param>
    /// <param name="path">File to write, whole or not at all; its folder must exist.</param>
    /// <exception cref="UserException">The file cannot be written.</exception>
    public static void Save(DilatedAttention attention, string path)
    {
        ArgumentNullException.ThrowIfNull(attention);
        ArgumentNullException.ThrowIfNull(path);
        using var scope = NewDisposeScope();
        var tensors = attention
            .named_parameters()
            .Select(entry => KeyValuePair.Create(entry.name, (Tensor)entry.parameter))
            .ToList();
        PositionEncoding positions = PositionsOf(attention);
        if (positions == PositionEncoding.XPos)
            tensors.Add(
                KeyValuePair.Create(
                    "xpos.scale",
                    DecayOfPairs(attention.get_parameter("q_proj.weight")!.shape[0] / attention.Heads)
                )
            );
        SafetensorsWriter.Write(
            path,
            tensors,
            Metadata(attention.Heads, attention.Pattern.HeadOffsets, positions, attention.Bias?.Buckets)
        );
    }

    private static IReadOnlyList<string> Load(string path, string prefix, Destination destination)
    {
        using SafetensorsReader reader = SafetensorsReader.Open(path);
        TorchscaleNames names = TorchscaleNames.Of(reader, prefix);
        var sources = new Dictionary<string, string>(names.Sources, StringComparer.Ordinal);
        string? tiedCopy = null;
        if (
            destination.TiesEmbeddings
            && sources.Remove(OutputProjection, out string? output)
            && !sources.TryAdd(Embedding, output)
        )
            tiedCopy = output;
        Misfit.ThrowIfAny(reader, prefix, sources, names.DecayShape, destination);

        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        // All of them before the first is written: a file that fails midway leaves the model alone.
        var values = destination
            .Parameters.Select(entry => Read(reader, sources[entry.Name], entry.Value.dtype))
            .ToArray();
        if (tiedCopy is not null && !Same(reader.Read(tiedCopy), reader.Read(sources[Embedding])))
        {
            throw new UserException(
                $"{path} holds {tiedCopy} and {sources[Embedding]} with different values, but this model "
                    + "has one tensor for both: set model.tie_embeddings: false."
            );
        }

        for (int p = 0; p < values.Length; p++)
            destination.Parameters[p].Value.copy_(values[p]);
        return Notes(reader, names, destination);
    }

    private static bool Same(Tensor a, Tensor b) => a.shape.SequenceEqual(b.shape) && a.eq(b).all().item<bool>();

    private static Tensor Read(SafetensorsReader reader, string source, ScalarType type)
    {
        using var scope = NewDisposeScope();
        Tensor value = reader.Read(source).to(type);
        return value.isfinite().all().item<bool>()
            ? value.MoveToOuterDisposeScope()
            : throw new UserException(
                $"{reader.Path} holds {source} with values that are not finite in {type}: give a file that "
                    + "is not damaged, or one of a wider type."
            );
    }

    private static List<string> Notes(SafetensorsReader reader, TorchscaleNames names, Destination destination)
    {
        var notes = new List<string>();
        string offsets = Text(destination.HeadOffsets),
            positions = Text(destination.Positions);
        string? savedOffsets = reader.Metadata.GetValueOrDefault(HeadOffsetsKey),
            savedPositions = reader.Metadata.GetValueOrDefault(PositionsKey);
        if (destination.HeadsDiffer && savedOffsets is null && destination.HeadOffsets != HeadOffsets.Blocked)
        {
            string choice = destination.Choose(
                "model.attention.head_offsets: blocked",
                "headOffsets: HeadOffsets.Blocked"
            );
            notes.Add(
                $"{reader.Path} does not say its head offsets: if the authors' Python code trained it, set {choice}."
            );
        }

        if (destination.HeadsDiffer && savedOffsets is not null && savedOffsets != offsets)
            notes.Add($"{reader.Path} was saved with head offsets {savedOffsets}, and this model has {offsets}.");
        if (destination.Buckets is { } buckets)
        {
            string? savedBuckets = reader.Metadata.GetValueOrDefault(BucketsKey);
            if (savedBuckets is null && !buckets.Bidirectional)
            {
                string choice = destination.Choose(
                    "model.attention.relative_position_bidirectional: true, and "
                        + "model.attention.relative_position_max_distance to its max_rel_pos",
                    "both directions and its max_rel_pos in RelativePositionBuckets"
                );
                notes.Add(
                    $"{reader.Path} does not say how distances share its relative position biases: if the "
                        + $"authors' Python code trained it, set {choice}."
                );
            }

            if (savedBuckets is not null && savedBuckets != Text(buckets))
                notes.Add(
                    $"{reader.Path} was saved with relative positions in {savedBuckets}, and this model has "
                        + $"{Text(buckets)}."
                );
        }

        if (savedPositions is not null && savedPositions != positions)
            notes.Add($"{reader.Path} was saved with positions {savedPositions}, and this model has {positions}.");
        if (savedPositions is null && names.DecayShape is { } decay && destination.Positions != PositionEncoding.XPos)
            notes.Add(
                $"{reader.Path} holds {decay.Name}, so it was trained with xPos, and this model has {positions}."
            );
        if (names.SecondBranch.Count > 0)
            notes.Add(
                $"{reader.Path} holds {names.SecondBranch.Count} tensors of second Multiway branches, such "
                    + $"as {names.SecondBranch[0]}, which are left out."
            );
        return notes;
    }

    /// <summary>What names and shapes of a model's weights do not tell, for a file that holds them.</summary>
    internal static Dictionary<string, string> Metadata(LongNetConfig config) =>
        Metadata(config.Heads, config.HeadOffsets, config.Positions, config.RelativePositionBias);

    private static Dictionary<string, string> Metadata(
        long heads,
        HeadOffsets offsets,
        PositionEncoding positions,
        RelativePositionBuckets? buckets
    )
    {
        var metadata = new Dictionary<string, string>
        {
            [HeadsKey] = $"{heads}",
            [HeadOffsetsKey] = Text(offsets),
            [PositionsKey] = Text(positions),
        };
        if (buckets is not null)
            metadata[BucketsKey] = Text(buckets);
        return metadata;
    }

    private static string Text(RelativePositionBuckets buckets) =>
        $"{buckets.Count} {(buckets.Bidirectional ? "bidirectional" : "one-way")} buckets up to {buckets.MaxDistance}";

    private static string Text(Enum value) => value.ToString().ToLowerInvariant();

    private static PositionEncoding PositionsOf(DilatedAttention attention) =>
        attention.Rotation switch
        {
            null => PositionEncoding.None,
            { Decays: true } => PositionEncoding.XPos,
            _ => PositionEncoding.Rope,
        };

    private static Tensor DecayOfPairs(long headDim)
    {
        var values = new float[headDim / 2];
        for (int pair = 0; pair < values.Length; pair++)
            values[pair] = (float)RotaryPositions.DecayOfPair(pair, headDim);
        return tensor(values, device: CPU);
    }

    /// <summary>What a file is to fill.</summary>
    private sealed record Destination(
        IReadOnlyList<(string Name, Tensor Value)> Parameters,
        long Channels,
        long Heads,
        SegmentSchedule Schedule,
        HeadOffsets HeadOffsets,
        PositionEncoding Positions,
        RelativePositionBuckets? Buckets,
        bool IsModel
    )
    {
        public bool TiesEmbeddings => IsModel && !Has(OutputProjection);

        /// <summary>Whether the offset rule makes any difference.</summary>
        public bool HeadsDiffer => Heads > 1 && Schedule.Any(branch => branch.Dilation > 1);

        public bool Has(string name) => Parameters.Any(entry => entry.Name == name);

        /// <summary>
        /// One word for a model, such as a key of the configuration, and one for an attention, such as an argument of
        /// its constructor.
        /// </summary>
        public string Choose(string ofModel, string ofAttention) => IsModel ? ofModel : ofAttention;
    }

    /// <summary>Finds all that keeps a file from fitting, and what to set so that it does.</summary>
    private static class Misfit
    {
        // Enough to recognise the reason by.
        private const int Shown = 3;

        public static void ThrowIfAny(
            SafetensorsReader reader,
            string prefix,
            Dictionary<string, string> sources,
            (string Name, IReadOnlyList<long> Shape)? decay,
            Destination destination
        )
        {
            string[] missing =
            [
                .. destination.Parameters.Select(entry => entry.Name).Where(name => !sources.ContainsKey(name)),
            ];
            string[] unexpected = [.. sources.Where(entry => !destination.Has(entry.Key)).Select(entry => entry.Value)];
            var present = destination.Parameters.Where(entry => sources.ContainsKey(entry.Name)).ToArray();
            string[] wronglyShaped =
            [
                .. present
                    .Where(entry => !reader.Shape(sources[entry.Name]).SequenceEqual(entry.Value.shape))
                    .Select(entry =>
                        $"{sources[entry.Name]} [{string.Join(", ", reader.Shape(sources[entry.Name]))}] "
                        + $"instead of [{string.Join(", ", entry.Value.shape)}]"
                    ),
            ];
            string[] notFloating =
            [
                .. present
                    .Select(entry => sources[entry.Name])
                    .Where(source =>
                        reader.Type(source)
                            is not (
                                ScalarType.Float64
                                or ScalarType.Float32
                                or ScalarType.Float16
                                or ScalarType.BFloat16
                            )
                    )
                    .Select(source => $"{source} ({reader.Type(source)})"),
            ];
            long? heads = HeadsOf(reader, decay, destination);
            bool otherHeads = heads is not null && heads != destination.Heads;
            string[] problems =
            [
                .. Few("it lacks ", [.. missing.Select(name => prefix + name)]),
                .. missing.Contains("layer_norm.weight") && sources.ContainsKey(Embedding)
                    ? new[] { "it normalizes after each part, and models here before it" }
                    : [],
                .. Few("it also holds ", unexpected),
                .. Few("it has other shapes: ", wronglyShaped),
                .. Few("it has no floating-point numbers in ", notFloating),
                .. otherHeads ? new[] { $"it has {heads} heads instead of {destination.Heads}" } : [],
            ];
            if (problems.Length == 0)
                return;
            string[] advice = [.. Advice(reader, sources, destination, missing)];
            if (otherHeads)
                advice = [.. advice, destination.Choose($"model.heads: {heads}", $"numHeads: {heads}")];
            throw new UserException(
                $"{reader.Path} does not fit this {destination.Choose("model", "attention")}: "
                    + $"{string.Join("; ", problems)}. "
                    + (
                        advice.Length > 0
                            ? $"Set {string.Join(", ", advice)}."
                            : $"Give the weights of {destination.Choose("a model", "an attention")} of this shape."
                    )
            );
        }

        private static string[] Few(string what, string[] items) =>
            items.Length switch
            {
                0 => [],
                <= Shown => [what + string.Join(", ", items)],
                _ => [$"{what}{string.Join(", ", items.Take(Shown))} and {items.Length - Shown} more"],
            };

        // Where the file tells: by what is kept with it, or by the channel pairs of its heads.
        private static long? HeadsOf(
            SafetensorsReader reader,
            (string Name, IReadOnlyList<long> Shape)? decay,
            Destination destination
        )
        {
            if (reader.Metadata.TryGetValue(HeadsKey, out string? text) && long.TryParse(text, out long saved))
                return saved;
            return decay is { Shape: [> 0 and var pairs] } && destination.Channels % (2 * pairs) == 0
                ? destination.Channels / (2 * pairs)
                : null;
        }

        private static IEnumerable<string> Advice(
            SafetensorsReader reader,
            Dictionary<string, string> sources,
            Destination destination,
            string[] missing
        )
        {
            bool normalizes = sources.Keys.Any(IsSubLayerNorm);
            if (normalizes != destination.Parameters.Any(entry => IsSubLayerNorm(entry.Name)))
                yield return destination.Choose(
                    $"model.sub_layer_norm: {(normalizes ? "true" : "false")}",
                    $"subLayerNorm: {(normalizes ? "true" : "false")}"
                );
            long channels = Size("q_proj.weight", 0) ?? destination.Channels;
            if (channels != destination.Channels)
                yield return destination.Choose($"model.d_model: {channels}", $"dModel: {channels}");
            if (!destination.IsModel)
                yield break;
            bool biased = sources.ContainsKey(RelativePositionTable);
            if (biased != destination.Has(RelativePositionTable))
                yield return $"model.attention.relative_position_bias: {(biased ? "true" : "false")}";
            else if (biased && Differs(RelativePositionTable, 0) is { } buckets)
                yield return $"model.attention.relative_position_buckets: {buckets}";
            long layers = Layers(sources.Keys);
            if (layers != Layers(destination.Parameters.Select(entry => entry.Name)) && layers > 0)
                yield return $"model.layers: {layers}";
            if (Differs(Embedding, 0) is { } vocabulary)
                yield return $"model.vocabulary: {vocabulary}";
            if (Differs("layers.0.ffn.fc1.weight", 0) is { } hidden)
                yield return $"model.feed_forward: {hidden}";
            if (missing.Contains(OutputProjection))
                yield return "model.tie_embeddings: true";

            // The size that the file has where it is not the model's.
            long? Differs(string name, int axis) =>
                Size(name, axis) is { } size
                && destination.Parameters.Single(entry => entry.Name == name).Value.shape[axis] != size
                    ? size
                    : null;

            long? Size(string end, int axis)
            {
                string? source = sources
                    .FirstOrDefault(entry =>
                        entry.Key == end || entry.Key.EndsWith("." + end, StringComparison.Ordinal)
                    )
                    .Value;
                return source is not null && reader.Shape(source) is { Count: var count } shape && count > axis
                    ? shape[axis]
                    : null;
            }
        }

        private static bool IsSubLayerNorm(string name) =>
            name.Split('.').Any(part => part is "inner_attn_ln" or "ffn_layernorm");

        private static long Layers(IEnumerable<string> names) =>
            names
                .Select(name =>
                    name.Split('.') is ["layers", var number, ..] && long.TryParse(number, out long layer)
                        ? layer + 1
                        : 0
                )
                .DefaultIfEmpty()
                .Max();
    }
}
