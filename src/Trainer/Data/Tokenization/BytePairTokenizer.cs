using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;

namespace LongNet.Trainer.Data.Tokenization;

/// <summary>Appends the tokens that the bytes of one piece of text are merged to.</summary>
internal delegate void PieceEncoder(ReadOnlySpan<char> piece, List<int> tokens);

/// <summary>The contents of a tokenizer's file of byte pairs.</summary>
/// <param name="Name">The file's name.</param>
/// <param name="FileDigest">SHA-256 of the file, lower-case hexadecimal.</param>
/// <param name="Bytes">The bytes of every token; empty for special tokens and for numbers not in use.</param>
/// <param name="EndOfText">The token between documents; null for none.</param>
/// <param name="Splitter">The rules by which text is split into pieces.</param>
/// <param name="Literals">Tokens that text is searched for before it is split.</param>
/// <param name="Encode">Merges the bytes of a piece.</param>
/// <param name="Rules">Anything else that decides the tokens, as text.</param>
internal sealed record BytePairVocabulary(
    string Name,
    string FileDigest,
    byte[][] Bytes,
    int? EndOfText,
    TextSplitter Splitter,
    IReadOnlyDictionary<string, int> Literals,
    PieceEncoder Encode,
    string Rules
);

/// <summary>
/// Byte-level byte pairs: text is split into pieces by rules, and within a piece bytes are merged to tokens.
/// </summary>
internal sealed class BytePairTokenizer : ITextTokenizer
{
    // Most pieces of a text are few different words, so their tokens are cached.
    private const int LongestCached = 32,
        MaxCached = 1 << 16;

    // One cache per thread, as that of the library is behind a lock; it belongs to the tokenizer that the thread used
    // last.
    [ThreadStatic]
    private static (BytePairTokenizer Owner, Dictionary<string, int[]> Pieces) cache;

    private readonly BytePairVocabulary vocabulary;
    private readonly Regex? literals;

    public BytePairTokenizer(BytePairVocabulary vocabulary)
    {
        this.vocabulary = vocabulary;
        if (vocabulary.Literals.Count > 0)
        {
            IEnumerable<string> longestFirst = vocabulary
                .Literals.Keys.OrderByDescending(literal => literal.Length)
                .ThenBy(literal => literal, StringComparer.Ordinal);
            literals = new Regex(string.Join('|', longestFirst.Select(Regex.Escape)), RegexOptions.CultureInvariant);
        }

        SplitPoints =
            vocabulary.Splitter.SeparatesLettersFromSpace && !vocabulary.Literals.Keys.Any(JoinsLetterAndSpace)
                ? SplitPoints.AfterLetters
                : SplitPoints.None;
        string rules =
            $"longnet byte pairs 1\n{vocabulary.FileDigest}\n{vocabulary.Rules}\n{vocabulary.Splitter.Rules}\n"
            + $"{vocabulary.EndOfText}";
        Fingerprint = Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(rules)));
    }

    public string Name => vocabulary.Name;

    public int VocabularySize => vocabulary.Bytes.Length;

    public int? EndOfText => vocabulary.EndOfText;

    public string Fingerprint { get; }

    public SplitPoints SplitPoints { get; }

    public bool RequiresUtf8 => true;

    public void Encode(ReadOnlySpan<byte> text, List<int> tokens)
    {
        string characters = Encoding.UTF8.GetString(text);
        if (literals is null)
        {
            EncodeBetween(characters, tokens);
            return;
        }

        int from = 0;
        foreach (ValueMatch match in literals.EnumerateMatches(characters))
        {
            EncodeBetween(characters.AsSpan(from, match.Index - from), tokens);
            from = match.Index + match.Length;
            tokens.Add(vocabulary.Literals[characters[match.Index..from]]);
        }

        EncodeBetween(characters.AsSpan(from), tokens);
    }

    public ReadOnlySpan<byte> BytesOf(int token) => vocabulary.Bytes[token];

    private void EncodeBetween(ReadOnlySpan<char> text, List<int> tokens)
    {
        if (cache.Owner != this)
            cache = (this, []);
        Dictionary<string, int[]> known = cache.Pieces;
        var byText = known.GetAlternateLookup<ReadOnlySpan<char>>();
        foreach (var (start, length) in vocabulary.Splitter.Split(text))
        {
            ReadOnlySpan<char> piece = text.Slice(start, length);
            if (length <= LongestCached && byText.TryGetValue(piece, out int[]? cached))
            {
                tokens.AddRange(cached);
                continue;
            }

            int first = tokens.Count;
            vocabulary.Encode(piece, tokens);
            if (length > LongestCached)
                continue;
            if (known.Count == MaxCached)
                known.Clear();
            known.Add(piece.ToString(), [.. tokens[first..]]);
        }
    }

    private static bool JoinsLetterAndSpace(string literal) =>
        Enumerable
            .Range(1, literal.Length - 1)
            .Any(at =>
                char.IsWhiteSpace(literal[at]) && (char.IsLetter(literal[at - 1]) || char.IsSurrogate(literal[at - 1]))
            );
}
