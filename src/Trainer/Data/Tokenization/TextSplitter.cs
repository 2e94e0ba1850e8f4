using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace LongNet.Trainer.Data.Tokenization;

/// <summary>
/// The pre-tokenizer: splits text into pieces, within each of which bytes are merged. Every rule is a regular
/// expression that splits the pieces of the rules before it: its matches are pieces, and so is the text between them.
/// </summary>
internal sealed class TextSplitter
{
    /// <summary>GPT-2's, and that of p50k_base and r50k_base.</summary>
    public const string Gpt2 = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    public const string Cl100k =
        @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n"
        + @"]+|\s+(?!\S)|\s+";

    public const string O200k =
        @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        + @"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        + @"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// <summary>Every digit is a piece of its own.</summary>
    public const string SingleDigits = @"\p{N}";

    /// <summary>Runs of digits.</summary>
    public const string Digits = @"\p{N}+";

    // Cl100k with single digits.
    private const string Qwen2 =
        @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n"
        + @"]+|\s+(?!\S)|\s+";

    // No match of these continues from a letter to white space, and none looks behind.
    private static readonly string[] SeparatingLettersFromSpace = [Gpt2, Cl100k, O200k, Qwen2, SingleDigits, Digits];

    private readonly Regex[] rules;

    /// <param name="patterns">In order.</param>
    /// <exception cref="ArgumentException">One is no regular expression of .NET.</exception>
    public TextSplitter(params IReadOnlyList<string> patterns)
    {
        rules =
        [
            .. patterns.Select(pattern => new Regex(pattern, RegexOptions.CultureInvariant | RegexOptions.Compiled)),
        ];
        Rules = string.Join('\n', patterns);
        SeparatesLettersFromSpace =
            patterns.All(pattern => SeparatingLettersFromSpace.Contains(pattern))
            && patterns.Any(pattern => pattern is not (SingleDigits or Digits));
    }

    /// <summary>The patterns, as text.</summary>
    public string Rules { get; }

    /// <summary>
    /// Whether a letter and white space after it never share a piece, and neither side's pieces depend on the other
    /// side.
    /// </summary>
    public bool SeparatesLettersFromSpace { get; }

    /// <summary>The pieces in order; together they are the text.</summary>
    public List<(int Start, int Length)> Split(ReadOnlySpan<char> text)
    {
        int[]? places = null;
        ReadOnlySpan<char> matched = text;
        if (text.IndexOfAnyInRange('\ud800', '\udfff') >= 0)
            matched = WithStandIns(text, out places);
        List<(int Start, int Length)> pieces = text.Length == 0 ? [] : [(0, matched.Length)];
        foreach (Regex rule in rules)
        {
            var finer = new List<(int Start, int Length)>(pieces.Count);
            foreach (var (start, length) in pieces)
            {
                int from = 0;
                foreach (ValueMatch match in rule.EnumerateMatches(matched.Slice(start, length)))
                {
                    Add(finer, start + from, match.Index - from);
                    Add(finer, start + match.Index, match.Length);
                    from = match.Index + match.Length;
                }

                Add(finer, start + from, length - from);
            }

            pieces = finer;
        }

        if (places is not null)
        {
            for (int p = 0; p < pieces.Count; p++)
            {
                var (start, length) = pieces[p];
                pieces[p] = (places[start], places[start + length] - places[start]);
            }
        }

        return pieces;

        static void Add(List<(int Start, int Length)> pieces, int start, int length)
        {
            if (length > 0)
                pieces.Add((start, length));
        }
    }

    // .NET matches the two halves of a character beyond U+FFFF one by one, and halves belong to no category; the
    // programs of the rules' authors match characters. So the rules see another character of the same category instead.
    private static char[] WithStandIns(ReadOnlySpan<char> text, out int[] places)
    {
        var characters = new char[text.Length];
        places = new int[text.Length + 1];
        int count = 0;
        for (int at = 0; at < text.Length; count++)
        {
            places[count] = at;
            Rune.DecodeFromUtf16(text[at..], out Rune rune, out int length);
            characters[count] = length == 1 ? text[at] : StandIn(Rune.GetUnicodeCategory(rune));
            at += length;
        }

        places[count] = text.Length;
        return characters[..count];
    }

    private static char StandIn(UnicodeCategory category) =>
        category switch
        {
            UnicodeCategory.UppercaseLetter => '\u00c0',
            UnicodeCategory.LowercaseLetter => '\u00e0',
            UnicodeCategory.TitlecaseLetter => '\u01c5',
            UnicodeCategory.ModifierLetter => '\u02b0',
            UnicodeCategory.OtherLetter => '\u05d0',
            UnicodeCategory.NonSpacingMark => '\u0300',
            UnicodeCategory.SpacingCombiningMark => '\u0903',
            UnicodeCategory.EnclosingMark => '\u20dd',
            UnicodeCategory.DecimalDigitNumber => '\u0660',
            UnicodeCategory.LetterNumber => '\u2160',
            UnicodeCategory.OtherNumber => '\u00b2',
            UnicodeCategory.OtherPunctuation or UnicodeCategory.DashPunctuation => '\u00a7',
            UnicodeCategory.MathSymbol => '\u00b1',
            UnicodeCategory.CurrencySymbol => '\u00a2',
            UnicodeCategory.Format => '\u00ad',
            UnicodeCategory.PrivateUse => '\ue000',
            UnicodeCategory.OtherNotAssigned => '\u0378',
            _ => '\u00a9',
        };
}
