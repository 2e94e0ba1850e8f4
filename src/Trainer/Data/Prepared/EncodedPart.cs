using System.Buffers.Binary;
using System.Security.Cryptography;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>
/// The tokens of a part, in a file of its own until all parts are encoded: counts, tokens, where documents begin within
/// the part, and a digest. Every document has the end-of-text token, if there is one, before its first token.
/// </summary>
/// <param name="Tokens">Its number of tokens.</param>
/// <param name="Documents">Number of documents that begin in it.</param>
/// <param name="TextBytes">Bytes of its text.</param>
/// <param name="UnreadableFile">A file with text that is no UTF-8; −1 for none.</param>
internal sealed record EncodedPart(long Tokens, long Documents, long TextBytes, long UnreadableFile)
{
    private const int HeaderBytes = 32,
        DigestBytes = 32;

    private byte[] file = [];

    /// <summary>Makes a part.</summary>
    public static EncodedPart Make(
        ReadOnlySpan<int> tokens,
        int tokenBytes,
        List<DocumentStart> documents,
        long textBytes,
        long unreadableFile
    )
    {
        var part = new EncodedPart(tokens.Length, documents.Count, textBytes, unreadableFile);
        var file = new byte[part.FileBytes(tokenBytes)];
        long[] counts = [part.Tokens, part.Documents, part.TextBytes, part.UnreadableFile];
        for (int count = 0; count < counts.Length; count++)
            BinaryPrimitives.WriteInt64LittleEndian(file.AsSpan(count * sizeof(long)), counts[count]);
        Span<byte> rest = file.AsSpan(HeaderBytes);
        foreach (int token in tokens)
        {
            if (tokenBytes == sizeof(ushort))
                BinaryPrimitives.WriteUInt16LittleEndian(rest, (ushort)token);
            else
                BinaryPrimitives.WriteInt32LittleEndian(rest, token);
            rest = rest[tokenBytes..];
        }

        foreach (DocumentStart document in documents)
        {
            BinaryPrimitives.WriteInt64LittleEndian(rest, document.FirstToken);
            BinaryPrimitives.WriteInt64LittleEndian(rest[sizeof(long)..], document.FirstByte);
            rest = rest[TokenFile.IndexEntryBytes..];
        }

        SHA256.HashData(file.AsSpan(0, file.Length - DigestBytes), rest);
        part.file = file;
        return part;
    }

    /// <summary>Reads the counts of a part that was finished before.</summary>
    /// <returns>Null where the file is missing or damaged.</returns>
    public static EncodedPart? Find(string path, int tokenBytes)
    {
        if (!File.Exists(path))
            return null;
        byte[] file = File.ReadAllBytes(path);
        if (
            file.Length < HeaderBytes + DigestBytes
            || !SHA256
                .HashData(file.AsSpan(0, file.Length - DigestBytes))
                .AsSpan()
                .SequenceEqual(file.AsSpan(file.Length - DigestBytes))
        )
            return null;
        var part = new EncodedPart(Count(0), Count(1), Count(2), Count(3));
        return part.FileBytes(tokenBytes) == file.Length ? part : null;

        long Count(int number) => BinaryPrimitives.ReadInt64LittleEndian(file.AsSpan(number * sizeof(long)));
    }

    /// <summary>Writes it to the disk, complete or not at all, and frees its tokens.</summary>
    public void Save(string path)
    {
        DurableFile.WriteInPlace(DurableFile.PartialOf(path), file, FileOperations.Real);
        FileOperations.Real.Rename(DurableFile.PartialOf(path), path);
        file = [];
    }

    /// <summary>Copies its tokens, as bytes.</summary>
    /// <param name="path">Where it was saved.</param>
    /// <param name="skip">Tokens that are left out at the beginning.</param>
    /// <param name="write">Called with them, block by block.</param>
    public void CopyTokens(string path, int tokenBytes, long skip, Action<ReadOnlySpan<byte>> write)
    {
        using FileStream stream = File.OpenRead(path);
        stream.Position = HeaderBytes + skip * tokenBytes;
        var block = new byte[1 << 20];
        for (long left = (Tokens - skip) * tokenBytes; left > 0; )
        {
            int count = (int)Math.Min(left, block.Length);
            stream.ReadExactly(block, 0, count);
            write(block.AsSpan(0, count));
            left -= count;
        }
    }

    /// <summary>Where documents begin, within the part.</summary>
    public IEnumerable<DocumentStart> ReadDocuments(string path, int tokenBytes)
    {
        using FileStream stream = File.OpenRead(path);
        stream.Position = HeaderBytes + Tokens * tokenBytes;
        var entry = new byte[TokenFile.IndexEntryBytes];
        for (long document = 0; document < Documents; document++)
        {
            stream.ReadExactly(entry);
            yield return new DocumentStart(
                BinaryPrimitives.ReadInt64LittleEndian(entry),
                BinaryPrimitives.ReadInt64LittleEndian(entry.AsSpan(sizeof(long)))
            );
        }
    }

    private long FileBytes(int tokenBytes) =>
        HeaderBytes + Tokens * tokenBytes + Documents * TokenFile.IndexEntryBytes + DigestBytes;
}
