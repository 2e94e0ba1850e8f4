using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>The first bytes of a prepared file; docs/data.md has the layout.</summary>
/// <param name="TokenBytes">Bytes per token: 2 or 4.</param>
/// <param name="VocabularySize">Tokens are below this.</param>
/// <param name="Tokens">Tokens in all.</param>
/// <param name="Documents">Documents in all.</param>
/// <param name="TextBytes">Bytes of their text.</param>
/// <param name="EndOfText">The token between documents; null for none.</param>
/// <param name="TokenizerFingerprint">SHA-256, lower-case hexadecimal.</param>
/// <param name="SourceFingerprint">Of the files that it was made of: names, sizes and first bytes.</param>
/// <param name="ContentDigest">SHA-256 of everything after the header.</param>
/// <param name="Tokenizer">Its name.</param>
internal sealed record TokenFileHeader(
    int TokenBytes,
    int VocabularySize,
    long Tokens,
    long Documents,
    long TextBytes,
    int? EndOfText,
    string TokenizerFingerprint,
    string SourceFingerprint,
    string ContentDigest,
    string Tokenizer
)
{
    /// <summary>Bytes of the header. Tokens follow at once.</summary>
    public const int Bytes = 4096;

    /// <summary>The format's version.</summary>
    public const int Version = 1;

    private const int DigestBytes = 32,
        TokenizerPlace = 160,
        MostTokenizerBytes = 512,
        DigestPlace = Bytes - DigestBytes;

    /// <summary>Where every prepared file begins.</summary>
    public static ReadOnlySpan<byte> Magic => "LONGTOK\0"u8;

    /// <summary>The largest vocabulary whose tokens take two bytes.</summary>
    public const int LargestOfTwoBytes = 1 << 16;

    /// <summary>Where the index of documents begins.</summary>
    public long IndexStart => Bytes + (checked(Tokens * TokenBytes) + 7) / 8 * 8;

    /// <summary>Where the bytes per token of the vocabulary are.</summary>
    public long BytesOfTokensStart => checked(IndexStart + Documents * TokenFile.IndexEntryBytes);

    /// <summary>Size of the whole file.</summary>
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
        while (Encoding.UTF8.GetByteCount(name) > MostTokenizerBytes)
            name = name[..^1];
        BinaryPrimitives.WriteInt64LittleEndian(
            bytes.AsSpan(152),
            Encoding.UTF8.GetBytes(name, bytes.AsSpan(TokenizerPlace))
        );
        SHA256.HashData(bytes.AsSpan(0, DigestPlace), bytes.AsSpan(DigestPlace));
        return bytes;
    }

    /// <param name="bytes">The header, after its magic and version were looked at.</param>
    /// <returns>Null where it is not what was written.</returns>
    public static TokenFileHeader? Read(ReadOnlySpan<byte> bytes)
    {
        Span<byte> digest = stackalloc byte[DigestBytes];
        SHA256.HashData(bytes[..DigestPlace], digest);
        if (!digest.SequenceEqual(bytes[DigestPlace..]))
            return null;
        long end = BinaryPrimitives.ReadInt64LittleEndian(bytes[48..]),
            name = BinaryPrimitives.ReadInt64LittleEndian(bytes[152..]);
        long vocabulary = BinaryPrimitives.ReadInt64LittleEndian(bytes[16..]);
        if (name is < 0 or > MostTokenizerBytes || vocabulary is < 1 or > int.MaxValue || end < -1 || end >= vocabulary)
            return null;
        var header = new TokenFileHeader(
            BinaryPrimitives.ReadInt32LittleEndian(bytes[12..]),
            (int)vocabulary,
            BinaryPrimitives.ReadInt64LittleEndian(bytes[24..]),
            BinaryPrimitives.ReadInt64LittleEndian(bytes[32..]),
            BinaryPrimitives.ReadInt64LittleEndian(bytes[40..]),
            end < 0 ? null : (int)end,
            Hexadecimal(bytes, 56),
            Hexadecimal(bytes, 88),
            Hexadecimal(bytes, 120),
            Encoding.UTF8.GetString(bytes.Slice(TokenizerPlace, (int)name))
        );
        return header.IsPossible ? header : null;

        static string Hexadecimal(ReadOnlySpan<byte> bytes, int at) =>
            Convert.ToHexStringLower(bytes.Slice(at, DigestBytes));
    }

    // So that no place within the file overflows. No disk is as large.
    private bool IsPossible =>
        TokenBytes is 2 or 4 && Tokens is >= 0 and < 1L << 56 && Documents is >= 0 and < 1L << 56 && TextBytes >= 0;
}
