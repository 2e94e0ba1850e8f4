using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using LongNet.Core;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>Where a document begins.</summary>
/// <param name="FirstToken">Its first token.</param>
/// <param name="FirstByte">Bytes of text of the documents before it.</param>
internal readonly record struct DocumentStart(long FirstToken, long FirstByte);

/// <summary>A file of longnet data prepare, to train on.</summary>
internal sealed class TokenFile : ITokenCorpus
{
    /// <summary>The extension of such files.</summary>
    public const string Extension = ".tokens";

    /// <summary>Bytes of an entry of the index.</summary>
    internal const int IndexEntryBytes = 16;

    private readonly ushort[] bytesOfTokens;

    private TokenFile(string path, TokenFileHeader header, ushort[] bytesOfTokens)
    {
        Path = path;
        Header = header;
        this.bytesOfTokens = bytesOfTokens;
    }

    public string Path { get; }

    public TokenFileHeader Header { get; }

    public string Fingerprint =>
        $"{Header.Documents} documents, {Header.Tokens} tokens of {Header.TokenizerFingerprint[..16]}, "
        + $"{Header.ContentDigest[..16]}";

    public string Summary =>
        $"{System.IO.Path.GetFileName(Path)} ({Header.Documents} documents, tokenizer {Header.Tokenizer})";

    public string TokenUnit => "tokens";

    public string Tokenizer => Header.Tokenizer;

    public int VocabularySize => Header.VocabularySize;

    public long Tokens => Header.Tokens;

    public ReadOnlyMemory<ushort>? BytesOfTokens => bytesOfTokens;

    /// <summary>Whether a file begins as a prepared one does.</summary>
    public static bool HasMagic(string path)
    {
        try
        {
            using FileStream file = File.OpenRead(path);
            var start = new byte[TokenFileHeader.Magic.Length];
            return file.ReadAtLeast(start, start.Length, throwOnEndOfStream: false) == start.Length
                && start.AsSpan().SequenceEqual(TokenFileHeader.Magic);
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            return false; // It is then read as text, which reports the error.
        }
    }

    /// <summary>Opens a file. Header and size are checked here, tokens when they are read.</summary>
    /// <exception cref="UserException">It is no prepared file, is of a newer version, or is damaged.</exception>
    public static TokenFile Open(string path)
    {
        try
        {
            using FileStream file = File.OpenRead(path);
            var bytes = new byte[TokenFileHeader.Bytes];
            int read = file.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false);
            if (read < TokenFileHeader.Magic.Length || !bytes.AsSpan().StartsWith(TokenFileHeader.Magic))
                throw new UserException(
                    $"{path} is no prepared file, or its beginning is damaged: write it with longnet data prepare."
                );
            if (read < bytes.Length)
                throw Damaged(path, $"it ends after {read} bytes, within its header");
            int version = BinaryPrimitives.ReadInt32LittleEndian(bytes.AsSpan(8));
            TokenFileHeader? header = version is < 1 or > TokenFileHeader.Version ? null : TokenFileHeader.Read(bytes);
            if (version > TokenFileHeader.Version)
                throw new UserException(
                    $"{path} has format version {version}, and this program reads "
                        + $"{TokenFileHeader.Version}: use a newer longnet, or prepare the text again."
                );
            if (header is null)
                throw Damaged(path, "its header is not what was written");
            if (file.Length != header.FileBytes)
                throw Damaged(path, $"it has {file.Length} bytes, and {header.FileBytes} were written");
            var lengths = new ushort[header.VocabularySize];
            file.Position = header.BytesOfTokensStart;
            file.ReadExactly(MemoryMarshal.AsBytes(lengths.AsSpan()));
            return new TokenFile(System.IO.Path.GetFullPath(path), header, lengths);
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw new UserException($"{path} cannot be read: {error.Message}");
        }
    }

    public ITokenSource OpenTokens() => new MappedTokenSource(this);

    /// <summary>Where the documents begin, in order.</summary>
    /// <exception cref="UserException">The index is damaged.</exception>
    public IEnumerable<DocumentStart> ReadIndex()
    {
        using FileStream file = File.OpenRead(Path);
        file.Position = Header.IndexStart;
        var entry = new byte[IndexEntryBytes];
        var last = new DocumentStart(-1, -1);
        for (long document = 0; document < Header.Documents; document++)
        {
            file.ReadExactly(entry);
            var start = new DocumentStart(
                BinaryPrimitives.ReadInt64LittleEndian(entry),
                BinaryPrimitives.ReadInt64LittleEndian(entry.AsSpan(8))
            );
            if (
                start.FirstToken <= last.FirstToken
                || start.FirstByte <= last.FirstByte
                || start.FirstToken >= Header.Tokens
                || start.FirstByte >= Header.TextBytes
            )
                throw Damaged(
                    Path,
                    $"document {document} begins at token {start.FirstToken} and byte {start.FirstByte}, "
                        + "which is not after the one before it and within the text"
                );
            yield return last = start;
        }
    }

    /// <summary>Checks the complete file against its SHA-256.</summary>
    /// <exception cref="UserException">It is not what was written.</exception>
    public void Verify()
    {
        using FileStream file = File.OpenRead(Path);
        file.Position = TokenFileHeader.Bytes;
        if (Convert.ToHexStringLower(SHA256.HashData(file)) != Header.ContentDigest)
            throw Damaged(Path, "its SHA-256 is not that of what was written");
        foreach (DocumentStart _ in ReadIndex()) { }
    }

    internal static UserException Damaged(string path, string how) =>
        new($"{path} is damaged: {how}. Copy it again, or prepare the text again with longnet data prepare.");
}
