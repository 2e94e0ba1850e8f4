using System.Buffers;
using System.Buffers.Binary;
using System.Text.Encodings.Web;
using System.Text.Json;
using LongNet.Core.Native;
using static TorchSharp.torch;

namespace LongNet.Core.Serialization;

/// <summary>What a safetensors file of some tensors looks like: its header, and the order and place of the data.</summary>
/// <remarks>
/// Data lies largest elements first, so that every tensor is aligned to its elements for those who map the file into memory.
/// </remarks>
public sealed class SafetensorsLayout
{
    private readonly byte[] header;
    private readonly List<Tensor> stored;

    private SafetensorsLayout(byte[] header, List<Tensor> stored)
    {
        this.header = header;
        this.stored = stored;
        FileLength = header.Length + stored.Sum(TensorMemory.ByteLength);
    }

    /// <summary>Size of the file in bytes.</summary>
    public long FileLength { get; }

    /// <summary>Lays tensors out.</summary>
    /// <param name="tensors">As for <see cref="SafetensorsWriter.Write"/>. Not owned; not changed until they are written.</param>
    /// <param name="metadata">Text to keep with the tensors.</param>
    /// <exception cref="ArgumentException">A name occurs twice or is reserved, or a dtype has no name in the format.</exception>
    public static SafetensorsLayout Of(IReadOnlyList<KeyValuePair<string, Tensor>> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        var names = new HashSet<string>(StringComparer.Ordinal);
        foreach (var (name, tensor) in tensors)
        {
            if (name == SafetensorsFormat.MetadataKey)
            {
                throw new ArgumentException($"No tensor can be called '{name}': the format keeps that name for metadata.", nameof(tensors));
            }

            if (!names.Add(name))
            {
                throw new ArgumentException($"Two tensors are called {SafetensorsException.Quote(name)}; names must differ.", nameof(tensors));
            }

            if (SafetensorsFormat.NameOf(tensor.dtype) is null)
            {
                throw new ArgumentException(
                    $"Tensor {SafetensorsException.Quote(name)} is of dtype {tensor.dtype}, which safetensors files cannot hold; convert it to one of {SafetensorsFormat.TypeNames}.",
                    nameof(tensors));
            }
        }

        var order = Enumerable.Range(0, tensors.Count)
            .OrderByDescending(index => SafetensorsFormat.ElementBytes(tensors[index].Value.dtype))
            .ToList();
        var starts = new long[tensors.Count];
        long end = 0;
        foreach (var index in order)
        {
            starts[index] = end;
            end = checked(end + TensorMemory.ByteLength(tensors[index].Value));
        }

        return new SafetensorsLayout(Header(tensors, starts, metadata), order.ConvertAll(index => tensors[index].Value));
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
        foreach (var tensor in stored)
        {
            WriteTensor(output, tensor, chunkBytes);
        }
    }

    private static byte[] Header(
        IReadOnlyList<KeyValuePair<string, Tensor>> tensors, long[] starts, IReadOnlyDictionary<string, string>? metadata)
    {
        var buffer = new ArrayBufferWriter<byte>();
        buffer.GetSpan(SafetensorsFormat.LengthBytes);
        buffer.Advance(SafetensorsFormat.LengthBytes);
        using (var json = new Utf8JsonWriter(buffer, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
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
                var (name, tensor) = tensors[index];
                json.WriteStartObject(name);
                json.WriteString("dtype", SafetensorsFormat.NameOf(tensor.dtype));
                json.WriteStartArray("shape");
                foreach (var size in tensor.shape)
                {
                    json.WriteNumberValue(size);
                }

                json.WriteEndArray();
                json.WriteStartArray("data_offsets");
                json.WriteNumberValue(starts[index]);
                json.WriteNumberValue(starts[index] + TensorMemory.ByteLength(tensor));
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

    private static void WriteTensor(Stream output, Tensor tensor, int chunkBytes)
    {
        if (TensorMemory.IsDirect(tensor))
        {
            TensorMemory.Read(tensor, (bytes, _) => output.Write(bytes), chunkBytes);
            return;
        }

        // The copy must not join the caller's scope: it would live until that scope ends, and all copies at once.
        using var scope = NewDisposeScope();
        using var withoutGradient = no_grad();
        TensorMemory.Read(tensor.cpu().contiguous(), (bytes, _) => output.Write(bytes), chunkBytes);
    }
}
