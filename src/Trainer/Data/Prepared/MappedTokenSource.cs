using System.Buffers;
using System.IO.MemoryMappedFiles;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>The tokens of a prepared file, through a memory map.</summary>
internal sealed class MappedTokenSource : ITokenSource
{
    private readonly TokenFile file;
    private readonly MemoryMappedFile map;
    private readonly MemoryMappedViewAccessor view;

    public MappedTokenSource(TokenFile file)
    {
        this.file = file;
        CheckSize();
        map = MemoryMappedFile.CreateFromFile(file.Path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
        view = map.CreateViewAccessor(0, file.Header.FileBytes, MemoryMappedFileAccess.Read);
    }

    public long Length => file.Tokens;

    public void Read(long start, Span<int> destination)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(start);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(start, Length - destination.Length);
        CheckSize();
        ulong offset = (ulong)(TokenFileHeader.Bytes + start * file.Header.TokenBytes);
        if (file.Header.TokenBytes == sizeof(int))
        {
            view.SafeMemoryMappedViewHandle.ReadSpan(offset, destination);
        }
        else
        {
            ushort[] narrow = ArrayPool<ushort>.Shared.Rent(destination.Length);
            view.SafeMemoryMappedViewHandle.ReadSpan(offset, narrow.AsSpan(0, destination.Length));
            for (int at = 0; at < destination.Length; at++)
                destination[at] = narrow[at];
            ArrayPool<ushort>.Shared.Return(narrow);
        }

        // The embedding has no row for other tokens.
        int wrong = destination.IndexOfAnyExceptInRange(0, file.VocabularySize - 1);
        if (wrong >= 0)
            throw TokenFile.Damaged(
                file.Path,
                $"token {start + wrong} is {(uint)destination[wrong]}, and the vocabulary is {file.VocabularySize}"
            );
    }

    public void Dispose()
    {
        view.Dispose();
        map.Dispose();
    }

    private void CheckSize() => MappedFiles.ThrowIfResized(file.Path, file.Header.FileBytes, "file");
}
