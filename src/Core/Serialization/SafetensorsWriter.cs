using System.Buffers;
using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text.Encodings.Web;
using System.Text.Json;
using LongNet.Core.Native;
using Microsoft.Win32.SafeHandles;
using static TorchSharp.torch;

namespace LongNet.Core.Serialization;

/// <summary>Writes tensors of any size to a safetensors file, as Python's <c>safetensors</c> package reads it.</summary>
public static class SafetensorsWriter
{
    /// <summary>
    /// Writes the file beside its final name, syncs it to the disk and renames it: it appears whole or not at all, and a
    /// file that was there is replaced only then.
    /// </summary>
    /// <param name="path">File to write; its folder must exist.</param>
    /// <param name="tensors">
    /// Names, in the order the header lists them, and tensors of any shape, strides and device, of dtype F64, F32, F16,
    /// BF16, I64, I32, I16, I8, U8 or BOOL. Not disposed. Those that are strided or not on the CPU are copied, one at a
    /// time.
    /// </param>
    /// <param name="metadata">Text to keep with the tensors.</param>
    /// <param name="hash">Is given every byte of the file in order, so that a digest costs no second reading.</param>
    /// <param name="chunkBytes">Most bytes handed to the system at once.</param>
    /// <exception cref="SafetensorsException">The file cannot be written: no such folder, no permission, a full disk.</exception>
    /// <exception cref="ArgumentException">A name occurs twice or is reserved, or a dtype has no name in the format.</exception>
    public static void Write(
        string path,
        IReadOnlyList<KeyValuePair<string, Tensor>> tensors,
        IReadOnlyDictionary<string, string>? metadata = null,
        IncrementalHash? hash = null,
        int chunkBytes = TensorMemory.DefaultChunkBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(chunkBytes);
        var (header, stored) = Layout(tensors, metadata);
        var partial = path + ".partial";
        try
        {
            var length = header.Length + stored.Sum(tensor => TensorMemory.ByteLength(tensor));
            using (var file = File.OpenHandle(partial, FileMode.Create, FileAccess.Write, FileShare.None, FileOptions.None, length))
            {
                var output = new Output(file, hash);
                output.Append(header);
                foreach (var tensor in stored)
                {
                    WriteTensor(output, tensor, chunkBytes);
                }

                RandomAccess.FlushToDisk(file);
            }

            File.Move(partial, path, overwrite: true);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            DeleteQuietly(partial);
            throw new SafetensorsException(
                path, null, $"Cannot write {path}: {exception.Message} Check the folder, its permissions and the free space.", exception);
        }
        catch
        {
            DeleteQuietly(partial);
            throw;
        }
    }

    /// <summary>
    /// The header's bytes, its length included, and the tensors in the order of their data: largest elements first, so
    /// that every tensor is aligned to its elements for those who map the file into memory.
    /// </summary>
    private static (byte[] Header, List<Tensor> Stored) Layout(
        IReadOnlyList<KeyValuePair<string, Tensor>> tensors, IReadOnlyDictionary<string, string>? metadata)
    {
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

        return (Header(tensors, starts, metadata), order.ConvertAll(index => tensors[index].Value));
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

    private static void WriteTensor(Output output, Tensor tensor, int chunkBytes)
    {
        if (TensorMemory.IsDirect(tensor))
        {
            TensorMemory.Read(tensor, (bytes, _) => output.Append(bytes), chunkBytes);
            return;
        }

        // The copy must not join the caller's scope: it would live until that scope ends, and all copies at once.
        using var scope = NewDisposeScope();
        using var withoutGradient = no_grad();
        TensorMemory.Read(tensor.cpu().contiguous(), (bytes, _) => output.Append(bytes), chunkBytes);
    }

    private static void DeleteQuietly(string path)
    {
        try
        {
            File.Delete(path);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            // The failure that led here is the one to report.
        }
    }

    /// <summary>The file's end, and the digest that follows it.</summary>
    private sealed class Output(SafeFileHandle file, IncrementalHash? hash)
    {
        private long position;

        public void Append(ReadOnlySpan<byte> bytes)
        {
            RandomAccess.Write(file, bytes, position);
            hash?.AppendData(bytes);
            position += bytes.Length;
        }
    }
}
