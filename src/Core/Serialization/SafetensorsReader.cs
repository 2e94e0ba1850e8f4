using System.Buffers.Binary;
using LongNet.Core.Native;
using Microsoft.Win32.SafeHandles;
using static TorchSharp.torch;

namespace LongNet.Core.Serialization;

/// <summary>
/// Reads safetensors files. The header is checked in full before any tensor is allocated, so that a damaged or hostile
/// file gives a <see cref="SafetensorsException"/> and no tensor is larger than the file.
/// </summary>
/// <remarks>Tensors are read when asked for, one at a time, straight into their memory.</remarks>
public sealed class SafetensorsReader : IDisposable
{
    private readonly SafeFileHandle file;
    private readonly SafetensorsHeader header;
    private readonly int chunkBytes;

    private SafetensorsReader(string path, SafeFileHandle file, SafetensorsHeader header, int chunkBytes)
    {
        Path = path;
        this.file = file;
        this.header = header;
        this.chunkBytes = chunkBytes;
    }

    /// <summary>The file, as it was given.</summary>
    public string Path { get; }

    /// <summary>The tensors' names in the header's order.</summary>
    public IReadOnlyList<string> Names => header.Names;

    /// <summary>The text kept with the tensors; empty where there is none.</summary>
    public IReadOnlyDictionary<string, string> Metadata => header.Metadata;

    /// <summary>Opens a file and checks its header against its length.</summary>
    /// <param name="path">File to read. It stays open until the reader is disposed.</param>
    /// <param name="chunkBytes">Most bytes asked of the system at once.</param>
    /// <exception cref="SafetensorsException">The file is missing, not readable, or not a valid safetensors
    /// file.</exception>
    public static SafetensorsReader Open(string path, int chunkBytes = TensorMemory.DefaultChunkBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(chunkBytes);
        SafeFileHandle? file = null;
        try
        {
            file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read);
            return new SafetensorsReader(path, file, ReadHeader(path, file), chunkBytes);
        }
        catch (Exception exception)
            when (exception is IOException or UnauthorizedAccessException or NotSupportedException)
        {
            // NotSupportedException: a pipe has no length.
            file?.Dispose();
            throw CannotRead(path, null, exception);
        }
        catch
        {
            file?.Dispose();
            throw;
        }
    }

    /// <summary>Whether the file has a tensor of that name.</summary>
    public bool Contains(string name) => header.Tensors.ContainsKey(name);

    /// <summary>The tensor's shape; empty for a single number.</summary>
    /// <exception cref="SafetensorsException">The file has no such tensor.</exception>
    public IReadOnlyList<long> Shape(string name) => Find(name).Shape;

    /// <summary>The tensor's dtype.</summary>
    /// <exception cref="SafetensorsException">The file has no such tensor.</exception>
    public ScalarType Type(string name) => Find(name).Type;

    /// <summary>Reads a tensor.</summary>
    /// <returns>A new contiguous CPU tensor, in the caller's dispose scope.</returns>
    /// <exception cref="SafetensorsException">The file has no such tensor, or cannot be read.</exception>
    public Tensor Read(string name)
    {
        var entry = Find(name);
        var tensor = empty(entry.Shape, entry.Type, CPU);
        try
        {
            Fill(name, entry, tensor);
            return tensor;
        }
        catch
        {
            tensor.Dispose();
            throw;
        }
    }

    /// <summary>Reads a tensor into one that exists, in place. Autograd does not see the change.</summary>
    /// <param name="destination">Of the same shape and dtype as the file's tensor; any strides and device. Not
    /// disposed.</param>
    /// <exception cref="SafetensorsException">
    /// The file has no such tensor, its shape or dtype differs, or the file cannot be read.
    /// </exception>
    public void ReadInto(string name, Tensor destination)
    {
        var entry = Find(name);
        if (destination.dtype != entry.Type || !destination.shape.AsSpan().SequenceEqual(entry.Shape))
        {
            throw new SafetensorsException(
                Path,
                name,
                $"{Path} holds tensor {SafetensorsException.Quote(name)} as "
                    + $"{SafetensorsFormat.Describe(entry.Type, entry.Shape)}, but it is to be "
                    + $"read into {SafetensorsFormat.Describe(destination.dtype, destination.shape)}; give a "
                    + "destination of the file's shape and dtype."
            );
        }

        if (TensorMemory.IsDirect(destination))
        {
            Fill(name, entry, destination);
            return;
        }

        using var scope = NewDisposeScope();
        using var withoutGradient = no_grad();
        destination.copy_(Read(name));
    }

    public void Dispose() => file.Dispose();

    private static SafetensorsHeader ReadHeader(string path, SafeFileHandle file)
    {
        var fileLength = RandomAccess.GetLength(file);
        Span<byte> prefix = stackalloc byte[SafetensorsFormat.LengthBytes];
        if (fileLength < prefix.Length || !TryReadExactly(file, prefix, 0))
        {
            throw SafetensorsException.Invalid(
                path,
                $"it has {fileLength} bytes, and the header's length alone takes {prefix.Length}"
            );
        }

        var headerLength = BinaryPrimitives.ReadUInt64LittleEndian(prefix);
        if (headerLength > SafetensorsFormat.MaxHeaderBytes)
        {
            throw SafetensorsException.Invalid(
                path,
                $"it announces a header of {headerLength} bytes, and {SafetensorsFormat.MaxHeaderBytes} are allowed"
            );
        }

        var dataLength = fileLength - prefix.Length - (long)headerLength;
        if (dataLength < 0)
        {
            throw SafetensorsException.Invalid(
                path,
                $"it announces a header of {headerLength} bytes, but the file has only {fileLength} bytes in all"
            );
        }

        var text = new byte[headerLength];
        if (!TryReadExactly(file, text, prefix.Length))
        {
            throw SafetensorsException.Invalid(path, "it ends inside its header");
        }

        return SafetensorsHeader.Parse(path, text, dataLength);
    }

    private void Fill(string name, SafetensorsHeader.Entry entry, Tensor tensor)
    {
        var start = SafetensorsFormat.LengthBytes + header.HeaderBytes + entry.Start;
        try
        {
            TensorMemory.Write(
                tensor,
                (bytes, offset) =>
                {
                    if (!TryReadExactly(file, bytes, start + offset))
                    {
                        throw SafetensorsException.InvalidTensor(
                            Path,
                            name,
                            "is cut off: the file was shortened while it was open"
                        );
                    }

                    // libtorch's behaviour is undefined for a bool that is neither 0 nor 1.
                    if (entry.Type == ScalarType.Bool && bytes.ContainsAnyExceptInRange((byte)0, (byte)1))
                    {
                        throw SafetensorsException.InvalidTensor(
                            Path,
                            name,
                            "is of dtype BOOL but holds bytes other than 0 and 1"
                        );
                    }
                },
                chunkBytes
            );
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            throw CannotRead(Path, name, exception);
        }
    }

    private SafetensorsHeader.Entry Find(string name)
    {
        if (header.Tensors.TryGetValue(name, out var entry))
        {
            return entry;
        }

        var present =
            Names.Count == 0
                ? "it holds none"
                : $"it holds {Names.Count}, beginning with "
                    + $"{string.Join(", ", Names.Take(3).Select(SafetensorsException.Quote))}";
        throw new SafetensorsException(
            Path,
            name,
            $"{Path} has no tensor {SafetensorsException.Quote(name)}; {present}. Ask for one of its names."
        );
    }

    private static SafetensorsException CannotRead(string path, string? tensorName, Exception exception) =>
        new(
            path,
            tensorName,
            $"Cannot read {path}: {exception.Message} Check the path and its permissions.",
            exception
        );

    private static bool TryReadExactly(SafeFileHandle file, Span<byte> bytes, long position)
    {
        while (!bytes.IsEmpty)
        {
            var count = RandomAccess.Read(file, bytes, position);
            if (count == 0)
            {
                return false;
            }

            bytes = bytes[count..];
            position += count;
        }

        return true;
    }
}
