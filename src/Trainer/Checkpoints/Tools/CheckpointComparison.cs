using System.Runtime.InteropServices;
using System.Text.Json;
using LongNet.Core.Native;
using LongNet.Core.Serialization;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints.Tools;

/// <summary>A value of state.json, or of the configuration in it, that two checkpoints do not share.</summary>
/// <param name="Key">Dotted path.</param>
/// <param name="First">The first's; "none" where it has none.</param>
/// <param name="Second">The second's.</param>
internal sealed record StateDifference(string Key, string First, string Second);

/// <summary>A tensor that two checkpoints both have, with other numbers.</summary>
/// <param name="Name">The parameter's or the optimizer state's name.</param>
/// <param name="IsParameter">Whether it is one of the model's.</param>
/// <param name="Elements">Elements in all.</param>
/// <param name="Differing">Elements whose bits differ.</param>
/// <param name="Largest">Largest difference between finite elements.</param>
/// <param name="Magnitude">Largest finite magnitude in either.</param>
/// <param name="NotFinite">Differing elements of which one at least is not finite.</param>
internal sealed record TensorDifference(
    string Name,
    bool IsParameter,
    long Elements,
    long Differing,
    double Largest,
    double Magnitude,
    long NotFinite
)
{
    /// <summary>The largest difference as a share of the tensor's largest magnitude.</summary>
    public double Relative => Largest == 0 ? 0 : Largest / Magnitude;
}

/// <summary>What two checkpoints do not have in common. Of each, one tensor at a time is in memory.</summary>
/// <param name="State">Entries of state.json other than the configuration and the list of files.</param>
/// <param name="Configuration">Keys of the configuration, but for output: where a run lies is not what it is.</param>
/// <param name="OnlyFirst">Tensors that only the first has.</param>
/// <param name="OnlySecond">Likewise.</param>
/// <param name="Misshapen">Tensors of other shapes or types, as both are described.</param>
/// <param name="Tensors">Tensors of other numbers, the largest share of the tensor's magnitude first.</param>
/// <param name="Compared">All names of tensors in either.</param>
internal sealed record CheckpointComparison(
    IReadOnlyList<StateDifference> State,
    IReadOnlyList<StateDifference> Configuration,
    IReadOnlyList<string> OnlyFirst,
    IReadOnlyList<string> OnlySecond,
    IReadOnlyList<StateDifference> Misshapen,
    IReadOnlyList<TensorDifference> Tensors,
    int Compared
)
{
    private const int ChunkElements = 1 << 20;

    public bool TensorsEqual => OnlyFirst.Count + OnlySecond.Count + Misshapen.Count + Tensors.Count == 0;

    public bool IsEqual => TensorsEqual && State.Count + Configuration.Count == 0;

    /// <summary>Verifies both and compares them.</summary>
    /// <param name="first">A checkpoint's folder.</param>
    /// <param name="second">Another's. It may have been written by other ranks, its optimizer state in any number of
    /// shards.</param>
    /// <exception cref="Core.UserException">One is damaged, or cannot be read.</exception>
    public static CheckpointComparison Of(string first, string second)
    {
        CheckpointManifest a = CheckpointStore.Verify(first),
            b = CheckpointStore.Verify(second);
        using var firstTensors = new Source(first, a);
        using var secondTensors = new Source(second, b);
        string[] onlyFirst = [.. firstTensors.Names.Except(secondTensors.Names)],
            onlySecond = [.. secondTensors.Names.Except(firstTensors.Names)];
        var misshapen = new List<StateDifference>();
        var tensors = new List<TensorDifference>();
        foreach (string name in firstTensors.Names.Intersect(secondTensors.Names))
        {
            if (!firstTensors.IsLike(secondTensors, name))
                misshapen.Add(new StateDifference(name, firstTensors.Describe(name), secondTensors.Describe(name)));
            else if (Compare(firstTensors, secondTensors, name) is { } difference)
                tensors.Add(difference);
        }

        return new CheckpointComparison(
            [.. Differences(StateOf(a), StateOf(b)).Where(entry => entry.Key != CheckpointManifest.DigestKey)],
            [.. Differences(a.Config, b.Config).Where(entry => entry.Key != "output")],
            onlyFirst,
            onlySecond,
            misshapen,
            [
                .. tensors
                    .OrderByDescending(tensor => tensor.NotFinite > 0)
                    .ThenByDescending(tensor => tensor.Relative)
                    .ThenByDescending(tensor => tensor.Differing),
            ],
            firstTensors.Names.Union(secondTensors.Names).Count()
        );

        static JsonElement StateOf(CheckpointManifest manifest) =>
            JsonElement.Parse((manifest with { Config = JsonElement.Parse("{}"), Files = [] }).ToJson());
    }

    private static StateDifference[] Differences(JsonElement first, JsonElement second)
    {
        Dictionary<string, string> a = [],
            b = [];
        Flatten(first, "", a);
        Flatten(second, "", b);
        return
        [
            .. a
                .Keys.Union(b.Keys)
                .Select(key => new StateDifference(
                    key,
                    a.GetValueOrDefault(key, "none"),
                    b.GetValueOrDefault(key, "none")
                ))
                .Where(entry => entry.First != entry.Second),
        ];

        static void Flatten(JsonElement value, string path, Dictionary<string, string> values)
        {
            if (value.ValueKind == JsonValueKind.Object)
            {
                foreach (JsonProperty property in value.EnumerateObject())
                    Flatten(property.Value, path.Length == 0 ? property.Name : $"{path}.{property.Name}", values);
            }
            else if (value.ValueKind != JsonValueKind.Null)
            {
                values[path] =
                    value.ValueKind == JsonValueKind.Array
                        ? $"[{string.Join(", ", value.EnumerateArray().Select(Text))}]"
                        : Text(value);
            }
        }
    }

    private static string Text(JsonElement value) =>
        value.ValueKind == JsonValueKind.String ? value.GetString()! : value.GetRawText();

    private static TensorDifference? Compare(Source first, Source second, string name)
    {
        using var scope = NewDisposeScope();
        using var noGradient = no_grad();
        Tensor a = first.Read(name),
            b = second.Read(name);
        if (TensorMemory.SameBytes(a, b))
            return null;
        double[] left = new double[ChunkElements],
            right = new double[ChunkElements];
        long elements = a.NumberOfElements,
            differing = 0,
            notFinite = 0;
        double largest = 0,
            magnitude = 0;
        for (long start = 0; start < elements; start += ChunkElements)
        {
            int count = (int)Math.Min(ChunkElements, elements - start);
            Take(a, start, count, left);
            Take(b, start, count, right);
            for (int e = 0; e < count; e++)
            {
                double x = left[e],
                    y = right[e];
                bool finite = double.IsFinite(x) && double.IsFinite(y);
                if (finite)
                    magnitude = Math.Max(magnitude, Math.Max(Math.Abs(x), Math.Abs(y)));
                // By bits, which no type of a checkpoint loses in float64: 0 and −0 differ, by nothing.
                if (BitConverter.DoubleToInt64Bits(x) == BitConverter.DoubleToInt64Bits(y))
                    continue;
                differing++;
                if (finite)
                    largest = Math.Max(largest, Math.Abs(x - y));
                else
                    notFinite++;
            }
        }

        return new TensorDifference(name, first.IsParameter(name), elements, differing, largest, magnitude, notFinite);
    }

    private static void Take(Tensor flat, long start, int count, double[] values)
    {
        using var scope = NewDisposeScope();
        Tensor chunk = flat.narrow(0, start, count).to(ScalarType.Float64);
        TensorMemory.Read(chunk, (bytes, offset) =>
            bytes.CopyTo(MemoryMarshal.AsBytes(values.AsSpan())[(int)offset..])
        );
    }

    /// <summary>The tensors of a checkpoint: parameters, and the optimizer state whatever files it lies in.</summary>
    private sealed class Source : IDisposable
    {
        private readonly SafetensorsReader model;
        private readonly OptimizerReader optimizer;

        public Source(string checkpoint, CheckpointManifest manifest)
        {
            model = CheckpointStore.OpenTensors(checkpoint, CheckpointStore.ModelFile);
            try
            {
                optimizer = OptimizerReader.Open(checkpoint, manifest);
            }
            catch
            {
                model.Dispose();
                throw;
            }

            Names = [.. model.Names, .. optimizer.Names];
        }

        public IReadOnlyList<string> Names { get; }

        /// <summary>Whether the other's tensor can be compared, element by element.</summary>
        public bool IsLike(Source other, string name) =>
            Type(name) == other.Type(name)
            && Elements(name) == other.Elements(name)
            // State in parts does not tell its shape.
            && (Shape(name) is not { } own || other.Shape(name) is not { } others || own.SequenceEqual(others));

        public bool IsParameter(string name) => model.Contains(name);

        /// <summary>The tensor, flat.</summary>
        public Tensor Read(string name)
        {
            using var scope = NewDisposeScope();
            if (model.Contains(name))
                return model.Read(name).view(-1).MoveToOuterDisposeScope();
            Tensor value = empty([Elements(name)], Type(name), CPU);
            optimizer.ReadInto(name, value);
            return value.MoveToOuterDisposeScope();
        }

        public string Describe(string name) =>
            Shape(name) is { } shape
                ? SafetensorsFormat.Describe(Type(name), shape)
                : $"{SafetensorsFormat.NameOf(Type(name))}, {Elements(name)} elements";

        public void Dispose()
        {
            model.Dispose();
            optimizer.Dispose();
        }

        private ScalarType Type(string name) => model.Contains(name) ? model.Type(name) : optimizer.Type(name);

        private IReadOnlyList<long>? Shape(string name) =>
            model.Contains(name) ? model.Shape(name) : optimizer.Shape(name);

        private long Elements(string name) =>
            model.Contains(name)
                ? model.Shape(name).Aggregate(1L, (product, size) => product * size)
                : optimizer.Elements(name);
    }
}
