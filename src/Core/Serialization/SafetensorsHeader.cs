using System.Text.Json;
using static TorchSharp.torch;

namespace LongNet.Core.Serialization;

/// <summary>The header of a safetensors file, checked against the length of its data.</summary>
internal sealed class SafetensorsHeader
{
    private SafetensorsHeader(long headerBytes)
    {
        HeaderBytes = headerBytes;
    }

    /// <summary>Length of the header in the file, the 8 bytes of the length itself not included.</summary>
    public long HeaderBytes { get; }

    public List<string> Names { get; } = [];

    public Dictionary<string, Entry> Tensors { get; } = new(StringComparer.Ordinal);

    public Dictionary<string, string> Metadata { get; } = new(StringComparer.Ordinal);

    /// <param name="Start">First byte, counted from the start of the data.</param>
    /// <param name="End">One past the last byte.</param>
    public sealed record Entry(ScalarType Type, long[] Shape, long Start, long End);

    /// <param name="path">File the header is from, for messages.</param>
    /// <param name="text">The header's bytes.</param>
    /// <param name="dataLength">Bytes that follow the header in the file.</param>
    /// <exception cref="SafetensorsException">The header is damaged, or the data is not what it says.</exception>
    public static SafetensorsHeader Parse(string path, byte[] text, long dataLength)
    {
        if (text.Length == 0 || text[0] != (byte)'{')
        {
            throw SafetensorsException.Invalid(path, "its header does not begin with '{'");
        }

        var header = new SafetensorsHeader(text.Length);
        try
        {
            using var document = JsonDocument.Parse(text);
            foreach (var property in document.RootElement.EnumerateObject())
            {
                header.Add(path, property.Name, property.Value);
            }
        }
        catch (Exception exception) when (exception is JsonException or InvalidOperationException)
        {
            // JsonElement reports text that is no UTF-8 as an InvalidOperationException.
            throw SafetensorsException.Invalid(path, "its header is not well-formed JSON", exception);
        }

        header.CheckCoverage(path, dataLength);
        return header;
    }

    private void Add(string path, string name, JsonElement value)
    {
        if (name == SafetensorsFormat.MetadataKey)
        {
            AddMetadata(path, value);
            return;
        }

        if (!Tensors.TryAdd(name, ParseEntry(path, name, value)))
        {
            throw SafetensorsException.InvalidTensor(path, name, "is described twice");
        }

        Names.Add(name);
    }

    private void AddMetadata(string path, JsonElement value)
    {
        if (value.ValueKind != JsonValueKind.Object)
        {
            throw SafetensorsException.Invalid(path, $"its {SafetensorsFormat.MetadataKey} is not an object");
        }

        foreach (var property in value.EnumerateObject())
        {
            if (property.Value.ValueKind != JsonValueKind.String)
            {
                throw SafetensorsException.Invalid(
                    path,
                    $"its {SafetensorsFormat.MetadataKey} holds "
                        + $"{SafetensorsException.Quote(property.Name)}, which is not a string"
                );
            }

            if (!Metadata.TryAdd(property.Name, property.Value.GetString()!))
            {
                throw SafetensorsException.Invalid(
                    path,
                    $"its {SafetensorsFormat.MetadataKey} holds {SafetensorsException.Quote(property.Name)} twice"
                );
            }
        }
    }

    private static Entry ParseEntry(string path, string name, JsonElement value)
    {
        var (type, shape, offsets) = ReadMembers(path, name, value);
        if (type?.ValueKind != JsonValueKind.String)
        {
            throw SafetensorsException.InvalidTensor(path, name, "has no dtype");
        }

        return CheckedEntry(
            path,
            name,
            ParseType(path, name, type.Value.GetString()!),
            Integers(shape),
            Integers(offsets)
        );
    }

    // Each is null where it is missing.
    private static (JsonElement? Type, JsonElement? Shape, JsonElement? Offsets) ReadMembers(
        string path,
        string name,
        JsonElement value
    )
    {
        if (value.ValueKind != JsonValueKind.Object)
        {
            throw SafetensorsException.InvalidTensor(path, name, "is not described by an object");
        }

        JsonElement? type = null,
            shape = null,
            offsets = null;
        foreach (var property in value.EnumerateObject())
        {
            switch (property.Name)
            {
                case "dtype":
                    SetOnce(ref type, property);
                    break;
                case "shape":
                    SetOnce(ref shape, property);
                    break;
                case "data_offsets":
                    SetOnce(ref offsets, property);
                    break;
            }
        }

        return (type, shape, offsets);

        void SetOnce(ref JsonElement? element, JsonProperty property)
        {
            if (element is not null)
            {
                throw SafetensorsException.InvalidTensor(path, name, $"has {property.Name} twice");
            }

            element = property.Value;
        }
    }

    private static ScalarType ParseType(string path, string name, string typeName) =>
        SafetensorsFormat.TypeOf(typeName)
        ?? throw new SafetensorsException(
            path,
            name,
            $"{path} holds tensor {SafetensorsException.Quote(name)} of dtype "
                + $"{SafetensorsException.Quote(typeName)}, which is not known here; "
                + $"convert it to one of {SafetensorsFormat.TypeNames}."
        );

    private static Entry CheckedEntry(string path, string name, ScalarType type, long[]? shape, long[]? offsets)
    {
        if (shape is null)
        {
            throw SafetensorsException.InvalidTensor(path, name, "has no shape of whole numbers from 0 up");
        }

        if (offsets is not [var start, var end] || end < start)
        {
            throw SafetensorsException.InvalidTensor(
                path,
                name,
                "has no data_offsets of two whole numbers, the second not the smaller"
            );
        }

        if (shape.Length > SafetensorsFormat.MaxDimensions)
        {
            throw SafetensorsException.InvalidTensor(
                path,
                name,
                $"has {shape.Length} dimensions, and {SafetensorsFormat.MaxDimensions} are allowed"
            );
        }

        var bytes = ByteLength(type, shape)
            ?? throw SafetensorsException.InvalidTensor(
                path,
                name,
                $"is {SafetensorsFormat.Describe(type, shape)}, which is more than any file can hold"
            );
        return bytes == end - start
            ? new Entry(type, shape, start, end)
            : throw SafetensorsException.InvalidTensor(
                path,
                name,
                $"is {SafetensorsFormat.Describe(type, shape)}, which takes {bytes} bytes, but its "
                    + $"data_offsets [{start}, {end}] span {end - start}"
            );
    }

    private static long[]? Integers(JsonElement? element)
    {
        if (element?.ValueKind != JsonValueKind.Array)
        {
            return null;
        }

        var values = new long[element.Value.GetArrayLength()];
        var count = 0;
        foreach (var item in element.Value.EnumerateArray())
        {
            if (item.ValueKind != JsonValueKind.Number || !item.TryGetInt64(out values[count]) || values[count] < 0)
            {
                return null;
            }

            count++;
        }

        return values;
    }

    /// <summary>
    /// Size of the elements in bytes, or null if it overflows. Sizes of zero do not hide an overflow of the others:
    /// libtorch multiplies those to make its strides.
    /// </summary>
    private static long? ByteLength(ScalarType type, long[] shape)
    {
        long product = SafetensorsFormat.ElementBytes(type);
        foreach (var size in shape)
        {
            if (size == 0)
            {
                continue;
            }

            if (product > long.MaxValue / size)
            {
                return null;
            }

            product *= size;
        }

        return shape.Contains(0) ? 0 : product;
    }

    /// <summary>Every byte of the data belongs to exactly one tensor, and every tensor lies in the data.</summary>
    private void CheckCoverage(string path, long dataLength)
    {
        long covered = 0;
        foreach (var name in Names.OrderBy(name => Tensors[name].Start).ThenBy(name => Tensors[name].End))
        {
            var entry = Tensors[name];
            if (entry.End > dataLength)
            {
                throw SafetensorsException.InvalidTensor(
                    path,
                    name,
                    $"ends at byte {entry.End} of the data, but the file has only {dataLength} bytes of data"
                );
            }

            if (entry.Start < covered)
            {
                throw SafetensorsException.InvalidTensor(
                    path,
                    name,
                    $"begins at byte {entry.Start} of the data, inside the tensor before it, which ends at {covered}"
                );
            }

            if (entry.Start > covered)
            {
                throw SafetensorsException.InvalidTensor(
                    path,
                    name,
                    $"begins at byte {entry.Start} of the data, but the tensor before it ends at {covered}, "
                        + "which leaves a hole"
                );
            }

            covered = entry.End;
        }

        if (covered < dataLength)
        {
            throw SafetensorsException.Invalid(
                path,
                $"its tensors cover {covered} bytes of data, but the file has {dataLength}"
            );
        }
    }
}
