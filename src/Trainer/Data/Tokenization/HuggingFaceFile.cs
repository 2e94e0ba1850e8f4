using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Microsoft.ML.Tokenizers;

namespace LongNet.Trainer.Data.Tokenization;

/// <summary>
/// Hugging Face's tokenizer.json, of byte-level byte pairs. A setting that this does not support is
/// an error, never ignored.
/// </summary>
internal static class HuggingFaceFile
{
    private const int MostTokens = 1 << 24;

    // Common names of the token that ends a document.
    private static readonly string[] EndsOfText = ["<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>"];

    public static ITextTokenizer Load(string path)
    {
        byte[] file = File.ReadAllBytes(path);
        try
        {
            using JsonDocument document = JsonDocument.Parse(file);
            return Read(path, file, document.RootElement);
        }
        catch (JsonException error)
        {
            throw TextTokenizers.Unusable(path, $"it is no JSON (line {error.LineNumber + 1})");
        }
        catch (InvalidOperationException)
        {
            throw TextTokenizers.Unusable(
                path,
                "a value in it is not of the kind that it must be, or text in it is no Unicode"
            );
        }
    }

    private static BytePairTokenizer Read(string path, byte[] file, JsonElement root)
    {
        if (
            root.ValueKind != JsonValueKind.Object
            || Given(root, "model") is not { ValueKind: JsonValueKind.Object } model
        )
            throw TextTokenizers.Unusable(path, "it has no \"model\"");
        CheckModel(path, model);
        if (Given(root, "normalizer") is { } normalizer && !IsEmptySequence(normalizer, "normalizers"))
        {
            throw TextTokenizers.Unusable(
                path,
                $"its normalizer {TypeOf(normalizer)} is none that this program has: normalize the text "
                    + "beforehand, and set \"normalizer\" to null in a copy of the file"
            );
        }

        TextSplitter splitter = Splitter(path, root);
        Dictionary<string, int> vocabulary = Vocabulary(path, model);
        var (literals, specials) = Added(path, root);
        foreach (string content in literals.Keys.Concat(specials.Keys))
            vocabulary.Remove(content);
        byte[][] bytes = Bytes(path, vocabulary, literals, specials);
        string[] merges = Merges(path, model, vocabulary);
        BpeTokenizer library = BpeTokenizer.Create(new BpeOptions(vocabulary) { Merges = merges, ByteLevel = true });
        bool ignoresMerges = Given(model, "ignore_merges") is { ValueKind: JsonValueKind.True };
        string? end = EndsOfText.FirstOrDefault(specials.ContainsKey);
        return new BytePairTokenizer(
            new BytePairVocabulary(
                Path.GetFileName(path),
                Convert.ToHexStringLower(SHA256.HashData(file)),
                bytes,
                end is null ? null : specials[end],
                splitter,
                literals,
                Encode,
                "tokenizer.json"
            )
        );

        void Encode(ReadOnlySpan<char> piece, List<int> tokens)
        {
            if (
                ignoresMerges
                && vocabulary.TryGetValue(ByteCharacters.Of(Encoding.UTF8.GetBytes(piece.ToString())), out int token)
            )
                tokens.Add(token);
            else
                tokens.AddRange(
                    library.EncodeToIds(piece, considerPreTokenization: false, considerNormalization: false)
                );
        }
    }

    private static void CheckModel(string path, JsonElement model)
    {
        // Older files have no type.
        if (Given(model, "type") is { } type && type.GetString() != "BPE")
            throw TextTokenizers.Unusable(path, $"its model is {type.GetString()}, but must be BPE, of bytes");
        if (Given(model, "byte_fallback") is { ValueKind: JsonValueKind.True })
            throw TextTokenizers.Unusable(path, "its pairs are of characters (byte_fallback), but must be of bytes");
        if (Given(model, "dropout") is { } dropout && dropout.GetDouble() != 0)
            throw TextTokenizers.Unusable(path, "it has dropout, so the same text would not always be the same tokens");
        foreach (string key in new[] { "continuing_subword_prefix", "end_of_word_suffix" })
        {
            if (Given(model, key) is { } affix && affix.GetString() != "")
                throw TextTokenizers.Unusable(path, $"its pairs are of characters ({key}), but must be of bytes");
        }
    }

    private static Dictionary<string, int> Vocabulary(string path, JsonElement model)
    {
        if (Given(model, "vocab") is not { ValueKind: JsonValueKind.Object } vocab)
            throw TextTokenizers.Unusable(path, "its model has no \"vocab\"");
        var vocabulary = new Dictionary<string, int>();
        foreach (JsonProperty entry in vocab.EnumerateObject())
            vocabulary[entry.Name] = Id(path, entry.Name, entry.Value);
        return vocabulary;
    }

    private static string[] Merges(string path, JsonElement model, Dictionary<string, int> vocabulary)
    {
        if (Given(model, "merges") is not { ValueKind: JsonValueKind.Array } merges)
            throw TextTokenizers.Unusable(path, "its model has no \"merges\"");
        var pairs = new string[merges.GetArrayLength()];
        int number = 0;
        foreach (JsonElement merge in merges.EnumerateArray())
        {
            string[] parts =
                merge.ValueKind == JsonValueKind.Array
                    ? [.. merge.EnumerateArray().Select(part => part.GetString()!)]
                    : merge.GetString()!.Split(' ');
            if (
                parts.Length != 2
                || !vocabulary.ContainsKey(parts[0])
                || !vocabulary.ContainsKey(parts[1])
                || !vocabulary.ContainsKey(parts[0] + parts[1])
            )
                throw TextTokenizers.Unusable(
                    path,
                    $"merge {number + 1} is not a pair of tokens that together are a token"
                );
            pairs[number++] = $"{parts[0]} {parts[1]}";
        }

        return pairs;
    }

    // Literals are searched for in text; special tokens are not, as no text may say where it ends.
    private static (Dictionary<string, int> Literals, Dictionary<string, int> Specials) Added(
        string path,
        JsonElement root
    )
    {
        Dictionary<string, int> literals = [],
            specials = [];
        if (Given(root, "added_tokens") is not { ValueKind: JsonValueKind.Array } added)
            return (literals, specials);
        foreach (JsonElement token in added.EnumerateArray())
        {
            if (
                token.ValueKind != JsonValueKind.Object
                || Given(token, "content")?.GetString() is not { Length: > 0 } content
                || Given(token, "id") is not { } id
            )
                throw TextTokenizers.Unusable(path, "an added token has no \"content\" or no \"id\"");
            bool special = Given(token, "special") is { ValueKind: JsonValueKind.True };
            (special ? specials : literals)[content] = Id(path, content, id);
            string? condition = new[] { "single_word", "lstrip", "rstrip" }.FirstOrDefault(key =>
                Given(token, key) is { ValueKind: JsonValueKind.True }
            );
            if (!special && condition is not null)
                throw TextTokenizers.Unusable(
                    path,
                    $"its added token \"{content}\" has {condition}, which this program has not"
                );
        }

        return (literals, specials);
    }

    private static byte[][] Bytes(
        string path,
        Dictionary<string, int> vocabulary,
        Dictionary<string, int> literals,
        Dictionary<string, int> specials
    )
    {
        var names = new Dictionary<int, string>();
        foreach (var (content, id) in vocabulary.Concat(literals).Concat(specials))
        {
            if (!names.TryAdd(id, content))
                throw TextTokenizers.Unusable(
                    path,
                    $"its tokens \"{names[id]}\" and \"{content}\" have the same number {id}"
                );
        }

        byte[][] bytes = [.. Enumerable.Repeat(Array.Empty<byte>(), names.Keys.DefaultIfEmpty(-1).Max() + 1)];
        foreach (var (content, id) in vocabulary)
            bytes[id] = ByteCharacters.Bytes(content)
                ?? throw TextTokenizers.Unusable(
                    path,
                    $"its token {id}, \"{content}\", is not written in bytes, as byte-level pairs are"
                );
        foreach (var (content, id) in literals)
            bytes[id] = Encoding.UTF8.GetBytes(content);
        int missing = Enumerable
            .Range(0, 256)
            .FirstOrDefault(value => !vocabulary.ContainsKey(ByteCharacters.Of((byte)value).ToString()), -1);
        return missing < 0
            ? bytes
            : throw TextTokenizers.Unusable(path, $"byte {missing} is no token, so not every text has tokens");
    }

    private static TextSplitter Splitter(string path, JsonElement root)
    {
        if (Given(root, "pre_tokenizer") is not { } pre)
            throw TextTokenizers.Unusable(path, "it has no \"pre_tokenizer\", so its pairs are not of bytes");
        var patterns = new List<string>();
        bool hasByteLevel = false;
        IEnumerable<JsonElement> steps =
            TypeOf(pre) == "Sequence"
                ? Given(pre, "pretokenizers")?.EnumerateArray() ?? default(JsonElement.ArrayEnumerator)
                : new[] { pre };
        foreach (JsonElement step in steps)
        {
            if (hasByteLevel)
                throw TextTokenizers.Unusable(
                    path,
                    $"its pre-tokenizer {TypeOf(step)} comes after ByteLevel, which must be the last"
                );
            hasByteLevel = TypeOf(step) == "ByteLevel";
            if (Pattern(path, step) is { } pattern)
                patterns.Add(pattern);
        }

        if (!hasByteLevel)
            throw TextTokenizers.Unusable(path, "its pre-tokenizer has no ByteLevel, so its pairs are not of bytes");
        try
        {
            return new TextSplitter(patterns);
        }
        catch (ArgumentException error)
        {
            throw TextTokenizers.Unusable(
                path,
                $"its pre-tokenizer's regular expression is none of .NET: {error.Message.TrimEnd('.')}"
            );
        }
    }

    // The regular expression by which a pre-tokenizer splits; null where it splits nothing.
    private static string? Pattern(string path, JsonElement step)
    {
        switch (TypeOf(step))
        {
            case "ByteLevel":
                if (Given(step, "add_prefix_space") is not { ValueKind: JsonValueKind.False })
                    throw TextTokenizers.Unusable(
                        path,
                        "its pre-tokenizer ByteLevel adds a space before every text "
                            + "(add_prefix_space), which this program has not"
                    );
                return Given(step, "use_regex") is { ValueKind: JsonValueKind.False } ? null : TextSplitter.Gpt2;
            case "Digits":
                return Given(step, "individual_digits") is { ValueKind: JsonValueKind.True }
                    ? TextSplitter.SingleDigits
                    : TextSplitter.Digits;
            case "Split"
                when Given(step, "behavior")?.GetString() == "Isolated"
                    && Given(step, "invert") is null or { ValueKind: JsonValueKind.False }
                    && Given(step, "pattern") is { ValueKind: JsonValueKind.Object } pattern
                    && Given(pattern, "Regex") is { } regex:
                return regex.GetString()!;
            default:
                throw TextTokenizers.Unusable(
                    path,
                    $"its pre-tokenizer {TypeOf(step)} is none that this program has, which are "
                        + "ByteLevel, Digits, and Split by a regular expression with behavior Isolated"
                );
        }
    }

    private static int Id(string path, string token, JsonElement value) =>
        value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int id) && id is >= 0 and < MostTokens
            ? id
            : throw TextTokenizers.Unusable(
                path,
                $"its token \"{token}\" has the number {value}, but must have one from 0 to {MostTokens - 1}"
            );

    private static bool IsEmptySequence(JsonElement element, string members) =>
        TypeOf(element) == "Sequence"
        && Given(element, members) is { ValueKind: JsonValueKind.Array } list
        && list.GetArrayLength() == 0;

    private static string TypeOf(JsonElement element) =>
        (element.ValueKind == JsonValueKind.Object ? Given(element, "type")?.GetString() : null) ?? "without a type";

    // Null where it is absent or null.
    private static JsonElement? Given(JsonElement element, string key) =>
        element.TryGetProperty(key, out JsonElement value) && value.ValueKind != JsonValueKind.Null ? value : null;
}
