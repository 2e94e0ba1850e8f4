using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>The first bytes of a prepared file; docs/data.md has the layout.</summary>
internal sealed record TokenFileHeader
{
    /// <summary>Bytes of the header. Tokens follow directly.</summary>
    public const int Bytes = 4096;

    /// <summary>The format's version.</summary>
    public const int Version = 1;

    private const int DigestBytes = 32,
        TokenizerOffset = 160,
        MaxTokenizerBytes = 512,
        DigestOffset = Bytes - DigestBytes;

    /// <summary>The first bytes of every prepared file.</summary>
    public static ReadOnlySpan<byte> Magic => "LONGTOK\0"u8;

    /// <summary>The largest vocabulary whose tokens take two bytes.</summary>
    public const int LargestTwoByteVocabulary = 1 << 16;

    /// <summary>Bytes per token: 2 or 4.</summary>
    public required int TokenBytes { get; init; }

    /// <summary>Tokens are below this.</summary>
    public required int VocabularySize { get; init; }

    /// <summary>Tokens in all.</summary>
    public required long Tokens { get; init; }

    /// <summary>Documents in all.</summary>
    public required long Documents { get; init; }

    /// <summary>Bytes of their text.</summary>
    public required long TextBytes { get; init; }

    /// <summary>The token between documents; null for none.</summary>
    public required int? EndOfText { get; init; }

    /// <summary>SHA-256, lower-case hexadecimal.</summary>
    public required string TokenizerFingerprint { get; init; }

    /// <summary>SHA-256 of the tokenizer and of the text files' names, sizes and first bytes.</summary>
    public required string SourceFingerprint { get; init; }

    /// <summary>SHA-256 of everything after the header.</summary>
    public required string ContentDigest { get; init; }

    /// <summary>The tokenizer's name.</summary>
    public required string Tokenizer { get; init; }

    /// <summary>Where the index of documents begins.</summary>
    public long IndexStart => Bytes + (checked(Tokens * TokenBytes) + 7) / 8 * 8;

    /// <summary>Where the bytes per token of the vocabulary are.</summary>
    public long BytesOfTokensStart => checked(IndexStart + Documents * TokenFile.IndexEntryBytes);

    /// <summary>Size of the file.</summary>
    public long FileBytes => checked(BytesOfTokensStart + (long)VocabularySize * sizeof(ushort));

    public byte[] Write()
    {
        var bytes = new byte[Bytes];
        Magic.CopyTo(bytes);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(8), Version);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(12), TokenBytes);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(16), VocabularySize);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(24), Tokens);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(32), Documents);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(40), TextBytes);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(48), EndOfText ?? -1);
        Convert.FromHexString(TokenizerFingerprint).CopyTo(bytes, 56);
        Convert.FromHexString(SourceFingerprint).CopyTo(bytes, 88);
        Convert.FromHexString(ContentDigest).CopyTo(bytes, 120);
        ReadOnlySpan<char> name = Tokenizer;
        while (Encoding.UTF8.GetByteCount(name) > MaxTokenizerBytes)
            name = name[..^1];
        BinaryPrimitives.WriteInt64LittleEndian(
            bytes.AsSpan(152),
            Encoding.UTF8.GetBytes(name, bytes.AsSpan(TokenizerOffset))
        );
        SHA256.HashData(bytes.AsSpan(0, DigestOffset), bytes.AsSpan(DigestOffset));
        return bytes;
    }

    /// <param name="bytes">The header, after its magic and version were checked.</param>
    /// <returns>Null where it is not what was written.</returns>
    public static TokenFileHeader? Read(ReadOnlySpan<byte> bytes)
    {
        Span<byte> digest = stackalloc byte[DigestBytes];
        SHA256.HashData(bytes[..DigestOffset], digest);
        if (!digest.SequenceEqual(bytes[DigestOffset..]))
            return null;
        long end = BinaryPrimitives.ReadInt64LittleEndian(bytes[48..]),
            name = BinaryPrimitives.ReadInt64LittleEndian(bytes[152..]);
        long vocabulary = BinaryPrimitives.ReadInt64LittleEndian(bytes[16..]);
        if (name is < 0 or > MaxTokenizerBytes || vocabulary is < 1 or > int.MaxValue || end < -1 || end >= vocabulary)
            return null;
        var header = new TokenFileHeader
        {
            TokenBytes = BinaryPrimitives.ReadInt32LittleEndian(bytes[12..]),
            VocabularySize = (int)vocabulary,
            Tokens = BinaryPrimitives.ReadInt64LittleEndian(bytes[24..]),
            Documents = BinaryPrimitives.ReadInt64LittleEndian(bytes[32..]),
            TextBytes = BinaryPrimitives.ReadInt64LittleEndian(bytes[40..]),
            EndOfText = end < 0 ? null : (int)end,
            TokenizerFingerprint = Hexadecimal(bytes, 56),
            SourceFingerprint = Hexadecimal(bytes, 88),
            ContentDigest = Hexadecimal(bytes, 120),
            Tokenizer = Encoding.UTF8.GetString(bytes.Slice(TokenizerOffset, (int)name)),
        };
        return header.IsPossible ? header : null;

        static string Hexadecimal(ReadOnlySpan<byte> bytes, int at) =>
            Convert.ToHexStringLower(bytes.Slice(at, DigestBytes));
    }

    // Bounds far beyond any disk, within which no offset in the file overflows.
    private bool IsPossible =>
        TokenBytes is 2 or 4 && Tokens is >= 0 and < 1L << 56 && Documents is >= 0 and < 1L << 56 && TextBytes >= 0;
}
