using System.Buffers;
using System.IO.MemoryMappedFiles;

namespace LongNet.Trainer.Data;

/// <summary>
/// A corpus as one sequence of bytes, its documents joined by one 0 byte. It is read through memory maps, so that only
/// the bytes asked for come from the disk.
/// </summary>
internal sealed class ByteTokenSource : ITokenSource
{
    private const int MostOpenMaps = 64;
    private readonly Corpus corpus;
    private readonly long[] starts;
    private readonly Dictionary<int, (MemoryMappedFile Map, MemoryMappedViewAccessor View)> open = [];
    private readonly Queue<int> openOrder = [];

    public ByteTokenSource(Corpus corpus)
    {
        this.corpus = corpus;
        starts = new long[corpus.Files.Count];
        long start = 0;
        for (int file = 0; file < starts.Length; file++)
        {
            starts[file] = start;
            start += corpus.Files[file].Bytes + 1; // the separator
        }

        Length = start - 1;
    }

    /// <summary>Tokens in all.</summary>
    public long Length { get; }

    /// <summary>Copies tokens.</summary>
    /// <param name="start">First token.</param>
    /// <param name="destination">Filled; must end within the source.</param>
    public void Read(long start, Span<byte> destination)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(start + destination.Length, Length);
        int file = Array.BinarySearch(starts, start);
        for (file = file < 0 ? ~file - 1 : file; destination.Length > 0; file++)
        {
            long within = start - starts[file];
            int count = (int)Math.Min(destination.Length, corpus.Files[file].Bytes - within);
            if (count > 0)
            {
                View(file).SafeMemoryMappedViewHandle.ReadSpan((ulong)within, destination[..count]);
                destination = destination[count..];
                start += count;
            }

            if (destination.Length > 0)
            {
                destination[0] = 0;
                destination = destination[1..];
                start++;
            }
        }
    }

    public void Read(long start, Span<int> destination)
    {
        byte[] bytes = ArrayPool<byte>.Shared.Rent(destination.Length);
        Read(start, bytes.AsSpan(0, destination.Length));
        for (int at = 0; at < destination.Length; at++)
            destination[at] = bytes[at];
        ArrayPool<byte>.Shared.Return(bytes);
    }

    public void Dispose()
    {
        foreach (int file in open.Keys.ToArray())
            Close(file);
    }

    private MemoryMappedViewAccessor View(int file)
    {
        CorpusFile described = corpus.Files[file];
        MappedFiles.ThrowIfResized(described.Path, described.Bytes, "text");
        if (open.TryGetValue(file, out var mapped))
            return mapped.View;
        while (open.Count >= MostOpenMaps)
            Close(openOrder.Dequeue());
        var map = MemoryMappedFile.CreateFromFile(described.Path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
        MemoryMappedViewAccessor view = map.CreateViewAccessor(0, described.Bytes, MemoryMappedFileAccess.Read);
        open.Add(file, (map, view));
        openOrder.Enqueue(file);
        return view;
    }

    private void Close(int file)
    {
        open[file].View.Dispose();
        open[file].Map.Dispose();
        open.Remove(file);
    }
}
