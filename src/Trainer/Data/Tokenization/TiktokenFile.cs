using System.Buffers.Text;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Microsoft.ML.Tokenizers;

namespace LongNet.Trainer.Data.Tokenization;

/// <summary>
/// Files of tiktoken: a line per token, its bytes in base 64 and its rank. The rules by which text is split are in no
/// file; they follow from the file's name.
/// </summary>
internal static class TiktokenFile
{
    // From this length on the library, whose time grows with the square, is slower than BytePairMerger.
    private const int LongPiece = 1000;
    private const int MostTokens = 1 << 24;

    private static readonly Encoding[] Known =
    [
        new("cl100k_base", TextSplitter.Cl100k, 100257, 100277),
        new("o200k_base", TextSplitter.O200k, 199999, 200019),
        new("p50k_base", TextSplitter.Gpt2, 50256, 50281),
        new("r50k_base", TextSplitter.Gpt2, 50256, 50257),
    ];

    public static ITextTokenizer Load(string path)
    {
        string name = Path.GetFileName(path);
        Encoding encoding = Known.FirstOrDefault(known => name.StartsWith(known.Name, StringComparison.Ordinal))
            ?? throw TextTokenizers.Unusable(
                path,
                "its name must say by which rules text is split, so it must begin with one of "
                    + $"{string.Join(", ", Known.Select(known => known.Name))}"
            );
        byte[] file = File.ReadAllBytes(path);
        byte[][] bytes = Tokens(path, file);
        if (bytes.Length > encoding.EndOfText && bytes[encoding.EndOfText].Length > 0)
            throw TextTokenizers.Unusable(
                path,
                $"its token {encoding.EndOfText} is the end of text in {encoding.Name}"
            );
        Dictionary<string, int> ranks = [];
        for (int rank = 0; rank < bytes.Length; rank++)
        {
            if (bytes[rank].Length > 0 && !ranks.TryAdd(BytePairMerger.KeyOf(bytes[rank]), rank))
                throw TextTokenizers.Unusable(
                    path,
                    $"its tokens {ranks[BytePairMerger.KeyOf(bytes[rank])]} and {rank} are the same bytes"
                );
        }

        int missing = Enumerable
            .Range(0, 256)
            .FirstOrDefault(value => !ranks.ContainsKey(((char)value).ToString()), -1);
        if (missing >= 0)
            throw TextTokenizers.Unusable(path, $"byte {missing} is no token, so not every text has tokens");
        var merger = new BytePairMerger(ranks);
        TiktokenTokenizer library = Library(bytes);
        return new BytePairTokenizer(
            new BytePairVocabulary(
                name,
                Convert.ToHexStringLower(SHA256.HashData(file)),
                [
                    .. bytes,
                    .. Enumerable.Repeat(Array.Empty<byte>(), Math.Max(0, encoding.VocabularySize - bytes.Length)),
                ],
                encoding.EndOfText,
                new TextSplitter(encoding.Pattern),
                new Dictionary<string, int>(),
                Encode,
                encoding.Name
            )
        );

        void Encode(ReadOnlySpan<char> piece, List<int> tokens)
        {
            if (piece.Length < LongPiece)
                tokens.AddRange(
                    library.EncodeToIds(piece, considerPreTokenization: false, considerNormalization: false)
                );
            else
                merger.Encode(System.Text.Encoding.UTF8.GetBytes(piece.ToString()), tokens);
        }
    }

    private static byte[][] Tokens(string path, byte[] file)
    {
        var tokens = new List<byte[]>();
        int number = 0;
        foreach (Range range in MemoryExtensions.Split(file.AsSpan(), (byte)'\n'))
        {
            number++;
            ReadOnlySpan<byte> line = file.AsSpan(range).TrimEnd((byte)'\r');
            if (line.Length == 0)
                continue;
            int space = line.IndexOf((byte)' ');
            var bytes = new byte[Math.Max(0, space)];
            if (
                space <= 0
                || !int.TryParse(line[(space + 1)..], NumberStyles.None, CultureInfo.InvariantCulture, out int rank)
                || rank >= MostTokens
                || Base64.DecodeFromUtf8(line[..space], bytes, out _, out int written)
                    != System.Buffers.OperationStatus.Done
                || written == 0
            )
            {
                throw TextTokenizers.Unusable(path, $"line {number} is not a token in base 64, a space and its rank");
            }

            while (tokens.Count <= rank)
                tokens.Add([]);
            if (tokens[rank].Length > 0)
                throw TextTokenizers.Unusable(path, $"line {number} gives rank {rank} again");
            tokens[rank] = bytes[..written];
        }

        return [.. tokens];
    }

    // The library cannot read files with empty lines, so it is given the tokens as a new file.
    private static TiktokenTokenizer Library(byte[][] bytes)
    {
        var text = new StringBuilder();
        for (int rank = 0; rank < bytes.Length; rank++)
        {
            if (bytes[rank].Length > 0)
                text.Append(Convert.ToBase64String(bytes[rank])).Append(' ').Append(rank).Append('\n');
        }

        using var lines = new MemoryStream(System.Text.Encoding.ASCII.GetBytes(text.ToString()));
        return TiktokenTokenizer.Create(lines, preTokenizer: null, normalizer: null);
    }

    private sealed record Encoding(string Name, string Pattern, int EndOfText, int VocabularySize);
}
