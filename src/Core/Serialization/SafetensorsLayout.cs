using System.Buffers;
using System.Buffers.Binary;
using System.Text.Encodings.Web;
using System.Text.Json;
using LongNet.Core.Devices;
using LongNet.Core.Native;
using static TorchSharp.torch;

namespace LongNet.Core.Serialization;

/// <summary>
/// What a safetensors file of some tensors looks like: its header, and the order and place of the data.
/// </summary>
/// <remarks>
/// Data lies largest elements first, so that every tensor is aligned to its elements for those who map the file into
/// memory.
/// </remarks>
public sealed class SafetensorsLayout
{
    private readonly byte[] header;
    private readonly List<SafetensorsEntry> stored;

    private SafetensorsLayout(byte[] header, List<SafetensorsEntry> stored)
    {
        this.header = header;
        this.stored = stored;
        FileLength = header.Length + stored.Sum(entry => entry.Bytes);
    }

    /// <summary>Size of the file in bytes.</summary>
    public long FileLength { get; }

    /// <summary>Lays tensors out.</summary>
    /// <param name="tensors">As for <see cref="SafetensorsWriter"/>. Not owned; not changed until they are
    /// written.</param>
    /// <param name="metadata">Text to keep with the tensors.</param>
    /// <exception cref="ArgumentException">A name occurs twice or is reserved, or a dtype has no name in the
    /// format.</exception>
    public static SafetensorsLayout Of(
        IReadOnlyList<KeyValuePair<string, Tensor>> tensors,
        IReadOnlyDictionary<string, string>? metadata = null
    )
    {
        ArgumentNullException.ThrowIfNull(tensors);
        return Of([.. tensors.Select(entry => SafetensorsEntry.Of(entry.Key, entry.Value))], metadata);
    }

    /// <summary>Lays out tensors that may not exist yet.</summary>
    /// <param name="tensors">In the order the header lists them.</param>
    /// <param name="metadata">Text to keep with the tensors.</param>
    /// <exception cref="ArgumentException">A name occurs twice or is reserved, or a dtype has no name in the
    /// format.</exception>
    public static SafetensorsLayout Of(
        IReadOnlyList<SafetensorsEntry> tensors,
        IReadOnlyDictionary<string, string>? metadata = null
    )
    {
        ArgumentNullException.ThrowIfNull(tensors);
        var names = new HashSet<string>(StringComparer.Ordinal);
        foreach (var (name, type, _, _) in tensors)
        {
            if (name == SafetensorsFormat.MetadataKey)
            {
                throw new ArgumentException(
                    $"No tensor can be called '{name}': the format keeps that name for metadata.",
                    nameof(tensors)
                );
            }

            if (!names.Add(name))
            {
                throw new ArgumentException(
                    $"Two tensors are called {SafetensorsException.Quote(name)}; names must differ.",
                    nameof(tensors)
                );
            }

            if (SafetensorsFormat.NameOf(type) is null)
            {
                throw new ArgumentException(
                    $"Tensor {SafetensorsException.Quote(name)} is of dtype {type}, which safetensors files "
                        + $"cannot hold; convert it to one of {SafetensorsFormat.TypeNames}.",
                    nameof(tensors)
                );
            }
        }

        var order = Enumerable
            .Range(0, tensors.Count)
            .OrderByDescending(index => SafetensorsFormat.ElementBytes(tensors[index].Type))
            .ToList();
        var starts = new long[tensors.Count];
        long end = 0;
        foreach (var index in order)
        {
            starts[index] = end;
            end = checked(end + tensors[index].Bytes);
        }

        return new SafetensorsLayout(Header(tensors, starts, metadata), order.ConvertAll(index => tensors[index]));
    }

    /// <summary>Writes the file's bytes, from first to last.</summary>
    /// <param name="output">Where they go. Not disposed.</param>
    /// <param name="chunkBytes">Most bytes handed over at once.</param>
    /// <exception cref="IOException">The output refuses.</exception>
    public void Write(Stream output, int chunkBytes = TensorMemory.DefaultChunkBytes)
    {
        ArgumentNullException.ThrowIfNull(output);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(chunkBytes);
        output.Write(header);
        foreach (var entry in stored)
        {
            WriteTensor(output, entry, chunkBytes);
        }
    }

    private static byte[] Header(
        IReadOnlyList<SafetensorsEntry> tensors,
        long[] starts,
        IReadOnlyDictionary<string, string>? metadata
    )
    {
        var buffer = new ArrayBufferWriter<byte>();
        buffer.GetSpan(SafetensorsFormat.LengthBytes);
        buffer.Advance(SafetensorsFormat.LengthBytes);
        using (
            var json = new Utf8JsonWriter(
                buffer,
                new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }
            )
        )
        {
            json.WriteStartObject();
            if (metadata is { Count: > 0 })
            {
                json.WriteStartObject(SafetensorsFormat.MetadataKey);
                foreach (var (key, value) in metadata)
                {
                    json.WriteString(key, value);
                }

                json.WriteEndObject();
            }

            for (var index = 0; index < tensors.Count; index++)
            {
                var entry = tensors[index];
                json.WriteStartObject(entry.Name);
                json.WriteString("dtype", SafetensorsFormat.NameOf(entry.Type));
                json.WriteStartArray("shape");
                foreach (var size in entry.Shape)
                {
                    json.WriteNumberValue(size);
                }

                json.WriteEndArray();
                json.WriteStartArray("data_offsets");
                json.WriteNumberValue(starts[index]);
                json.WriteNumberValue(starts[index] + entry.Bytes);
                json.WriteEndArray();
                json.WriteEndObject();
            }

            json.WriteEndObject();
        }

        var padding = -buffer.WrittenCount & (SafetensorsFormat.Alignment - 1);
        buffer.GetSpan(SafetensorsFormat.Alignment).Fill((byte)' ');
        buffer.Advance(padding);
        var header = buffer.WrittenSpan.ToArray();
        BinaryPrimitives.WriteInt64LittleEndian(header, header.Length - SafetensorsFormat.LengthBytes);
        return header;
    }

    private static void WriteTensor(Stream output, SafetensorsEntry entry, int chunkBytes)
    {
        // What is made here must not join the caller's scope: it would live until that scope ends, and all tensors at
        // once.
        using var scope = NewDisposeScope();
        using var withoutGradient = no_grad();
        var tensor = entry.Make();
        TensorMemory.Read(
            TensorMemory.IsDirect(tensor) ? tensor : DeviceRead.ToCpu(tensor).contiguous(),
            (bytes, _) => output.Write(bytes),
            chunkBytes
        );
    }
}
