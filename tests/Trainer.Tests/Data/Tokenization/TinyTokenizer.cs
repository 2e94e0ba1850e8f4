using System.Text.Json;
using System.Text.Json.Nodes;
using LongNet.TestKit;
using LongNet.Trainer.Data.Tokenization;

namespace LongNet.Trainer.Tests.Data.Tokenization;

/// <summary>
/// A tokenizer.json of byte-level pairs, small enough to encode by hand: the bytes, a few pairs and an end of text.
/// </summary>
internal static class TinyTokenizer
{
    // Ġ is a space, Ċ a line's end.
    private static readonly string[] Merges =
    [
        "h e",
        "l l",
        "he ll",
        "hell o",
        "Ġ w",
        "o r",
        "l d",
        "Ġw or",
        "Ġwor ld",
        "Ġ Ġ",
        "ĠĠ ĠĠ",
        "i n",
        "r e",
        "e r",
        "t he",
        "a n",
        "Ġ the",
        "p u",
        "pu b",
        "pub l",
        "publ i",
        "publi c",
        "Ġ =",
        "s t",
        "st r",
        "str in",
        "Ċ ĠĠĠĠ",
        "u re",
        "Ã ©",
    ];

    public const int EndOfText = 256 + 29;

    public const int VocabularySize = EndOfText + 1;

    public static JsonObject Json()
    {
        var vocabulary = new JsonObject();
        for (int value = 0; value < 256; value++)
            vocabulary[ByteCharacters.Of((byte)value).ToString()] = value;
        foreach (string merge in Merges)
            vocabulary[merge.Replace(" ", "", StringComparison.Ordinal)] = vocabulary.Count;
        return new JsonObject
        {
            ["version"] = "1.0",
            ["normalizer"] = null,
            ["pre_tokenizer"] = new JsonObject
            {
                ["type"] = "ByteLevel",
                ["add_prefix_space"] = false,
                ["trim_offsets"] = true,
                ["use_regex"] = true,
            },
            ["added_tokens"] = new JsonArray(
                new JsonObject
                {
                    ["id"] = EndOfText,
                    ["content"] = "<|endoftext|>",
                    ["special"] = true,
                }
            ),
            ["model"] = new JsonObject
            {
                ["type"] = "BPE",
                ["vocab"] = vocabulary,
                ["merges"] = new JsonArray([.. Merges.Select(merge => (JsonNode)merge)]),
            },
        };
    }

    /// <summary>Writes it.</summary>
    /// <returns>Its path.</returns>
    public static string Write(TemporaryFolder folder, JsonObject? json = null, string name = "tokenizer.json") =>
        folder.Write(name, (json ?? Json()).ToJsonString(new JsonSerializerOptions { WriteIndented = true }));

    public static List<int> Encode(this ITextTokenizer tokenizer, string text)
    {
        var tokens = new List<int>();
        tokenizer.Encode(System.Text.Encoding.UTF8.GetBytes(text), tokens);
        return tokens;
    }
}
