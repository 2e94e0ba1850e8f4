using System.Text;
using System.Text.Json.Nodes;
using LongNet.Core;
using LongNet.TestKit;
using LongNet.Trainer.Data.Tokenization;

namespace LongNet.Trainer.Tests.Data.Tokenization;

public sealed class HuggingFaceFileTests : IDisposable
{
    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Theory]
    [InlineData("hello world", "hello| world")]
    [InlineData("hell other", "hell| |o|the|r")]
    [InlineData("the hello,\n    public", "the| |hello|,|\n|  | | |public")]
    [InlineData("é\0", "é|\0")]
    // A text does not say where it ends.
    [InlineData("<|endoftext|>", "<|||e|n|d|o|f|t|e|x|t|||>")]
    public void Encode_ByHand_MergesPairsInOrder(string text, string tokens)
    {
        ITextTokenizer tokenizer = TextTokenizers.Load(TinyTokenizer.Write(folder));
        List<int> encoded = tokenizer.Encode(text);
        Assert.Equal(
            tokens,
            string.Join('|', encoded.Select(token => Encoding.UTF8.GetString(tokenizer.BytesOf(token))))
        );
        Assert.Equal(text, tokenizer.Decode(encoded));
    }

    [Fact]
    public void Load_TellsWhatItIs()
    {
        ITextTokenizer tokenizer = TextTokenizers.Load(TinyTokenizer.Write(folder));
        Assert.Equal(
            ("tokenizer.json", TinyTokenizer.VocabularySize, TinyTokenizer.EndOfText, SplitPoints.AfterLetters),
            (tokenizer.Name, tokenizer.VocabularySize, tokenizer.EndOfText!.Value, tokenizer.SplitPoints)
        );
        Assert.Equal(0, tokenizer.BytesOf(TinyTokenizer.EndOfText).Length);
        Assert.Equal(
            tokenizer.Fingerprint,
            TextTokenizers.Load(TinyTokenizer.Write(folder, name: "copy.json")).Fingerprint
        );
        JsonObject other = TinyTokenizer.Json();
        other["pre_tokenizer"]!["use_regex"] = false;
        Assert.NotEqual(tokenizer.Fingerprint, TextTokenizers.Load(TinyTokenizer.Write(folder, other)).Fingerprint);
    }

    [Fact]
    public void Encode_TextOfManyLanguages_ComesBack()
    {
        ITextTokenizer tokenizer = TextTokenizers.Load(TinyTokenizer.Write(folder));
        foreach (
            string text in new[]
            {
                "",
                "zażółć gęślą jaźń",
                "漢字かな交じり文。",
                "مرحبا",
                "👩‍🚀 😀hello 𝐀𝟘",
                "\r\n\t \u00a0\ufeff",
                "a\0b",
            }
        )
            Assert.Equal(text, tokenizer.Decode(tokenizer.Encode(text)));
        // What is no UTF-8 does not.
        var tokens = new List<int>();
        tokenizer.Encode([0x61, 0xff, 0x62], tokens);
        Assert.Equal("a\ufffdb", tokenizer.Decode(tokens));
    }

    [Fact]
    public void Encode_RulesOfSeveralSteps_SplitWhatTheOnesBeforeLeft()
    {
        JsonObject json = TinyTokenizer.Json();
        json["pre_tokenizer"] = JsonNode.Parse(
            """
            {"type":"Sequence","pretokenizers":[
              {"type":"Split","pattern":{"Regex":"l+"},"behavior":"Isolated","invert":false},
              {"type":"Digits","individual_digits":true},
              {"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}
            """
        );
        ITextTokenizer tokenizer = TextTokenizers.Load(TinyTokenizer.Write(folder, json));
        Assert.Equal(
            ["he", "ll", "o", "1", "2", " the"],
            tokenizer.Encode("hello12 the").Select(token => Encoding.UTF8.GetString(tokenizer.BytesOf(token)))
        );
        // Nothing is known of such rules.
        Assert.Equal(SplitPoints.None, tokenizer.SplitPoints);
    }

    [Fact]
    public void Encode_TokensOfTheTextItself_AreFoundBeforeItIsSplit()
    {
        JsonObject json = TinyTokenizer.Json();
        json["added_tokens"]!
            .AsArray()
            .Add(
                (JsonNode)
                    new JsonObject
                    {
                        ["id"] = 300,
                        ["content"] = "o w",
                        ["special"] = false,
                    }
            );
        json["added_tokens"]!
            .AsArray()
            .Add(
                (JsonNode)
                    new JsonObject
                    {
                        ["id"] = 301,
                        ["content"] = "o wo",
                        ["special"] = false,
                    }
            );
        ITextTokenizer tokenizer = TextTokenizers.Load(TinyTokenizer.Write(folder, json));
        Assert.Equal(
            ["hell", "o wo", "r", "ld", "o w"],
            tokenizer.Encode("hello worldo w").Select(token => Encoding.UTF8.GetString(tokenizer.BytesOf(token)))
        );
        Assert.Equal((302, SplitPoints.None), (tokenizer.VocabularySize, tokenizer.SplitPoints));
    }

    [Fact]
    public void Encode_IgnoreMerges_TakesAPieceThatIsAToken()
    {
        JsonObject json = TinyTokenizer.Json();
        json["model"]!["vocab"]!["xyz"] = 400;
        Assert.Equal(3, TextTokenizers.Load(TinyTokenizer.Write(folder, json)).Encode("xyz").Count);
        json["model"]!["ignore_merges"] = true;
        Assert.Equal([400], TextTokenizers.Load(TinyTokenizer.Write(folder, json)).Encode("xyz"));
    }

    [Theory]
    [InlineData("model", null, "it has no \"model\"")]
    [InlineData("model.type", "\"Unigram\"", "its model is Unigram, but must be BPE, of bytes")]
    [InlineData("model.vocab", null, "its model has no \"vocab\"")]
    [InlineData("model.merges", null, "its model has no \"merges\"")]
    [InlineData("model.merges", "[\"h e\", \"h q\"]", "merge 2 is not a pair of tokens that together are a token")]
    [InlineData("model.merges", "[7]", "a value in it is not of the kind that it must be, or text in it is no Unicode")]
    [InlineData("model.byte_fallback", "true", "its pairs are of characters (byte_fallback), but must be of bytes")]
    [InlineData(
        "model.end_of_word_suffix",
        "\"</w>\"",
        "its pairs are of characters (end_of_word_suffix), but must be of bytes"
    )]
    [InlineData("model.dropout", "0.1", "it has dropout, so the same text would not always be the same tokens")]
    [InlineData("model.vocab.A", "-1", "its token \"A\" has the number -1, but must have one from 0 to 16777215")]
    [InlineData("model.vocab.A", "66", "its tokens \"A\" and \"B\" have the same number 66")]
    [InlineData("model.vocab.A", null, "byte 65 is no token, so not every text has tokens")]
    [InlineData("model.vocab.a b", "500", "its token 500, \"a b\", is not written in bytes, as byte-level pairs are")]
    [InlineData(
        "normalizer",
        "{\"type\":\"NFC\"}",
        "its normalizer NFC is none that this program has: normalize the text beforehand, and set "
            + "\"normalizer\" to null in a copy of the file"
    )]
    [InlineData("pre_tokenizer", null, "it has no \"pre_tokenizer\", so its pairs are not of bytes")]
    [InlineData(
        "pre_tokenizer.add_prefix_space",
        "true",
        "its pre-tokenizer ByteLevel adds a space before every text (add_prefix_space), which this program has not"
    )]
    [InlineData(
        "pre_tokenizer.type",
        "\"Metaspace\"",
        "its pre-tokenizer Metaspace is none that this program has, which are ByteLevel, Digits, and Split "
            + "by a regular expression with behavior Isolated"
    )]
    [InlineData(
        "pre_tokenizer",
        "{\"type\":\"Sequence\",\"pretokenizers\":[]}",
        "its pre-tokenizer has no ByteLevel, so its pairs are not of bytes"
    )]
    [InlineData(
        "added_tokens",
        "[{\"id\":290,\"content\":\"x\",\"lstrip\":true}]",
        "its added token \"x\" has lstrip, which this program has not"
    )]
    [InlineData("added_tokens", "[{\"id\":290}]", "an added token has no \"content\" or no \"id\"")]
    public void Load_OneMistake_IsNamed(string key, string? value, string problem)
    {
        JsonObject json = TinyTokenizer.Json();
        string[] keys = key.Split('.');
        JsonObject group = keys[..^1].Aggregate(json, (at, each) => at[each]!.AsObject());
        if (value is null)
            group.Remove(keys[^1]);
        else
            group[keys[^1]] = JsonNode.Parse(value);
        string path = TinyTokenizer.Write(folder, json);
        Assert.Equal(
            $"The tokenizer {path} cannot be used: {problem}.",
            Assert.Throws<UserException>(() => TextTokenizers.Load(path)).Message
        );
    }

    [Fact]
    public void Load_NoTokenizer_IsNamed()
    {
        string noJson = folder.Write("no.json", "{\n\"model\": {");
        Assert.Equal(
            $"The tokenizer {noJson} cannot be used: it is no JSON (line 2).",
            Assert.Throws<UserException>(() => TextTokenizers.Load(noJson)).Message
        );
        string list = folder.Write("list.json", "[]");
        Assert.Equal(
            $"The tokenizer {list} cannot be used: it has no \"model\".",
            Assert.Throws<UserException>(() => TextTokenizers.Load(list)).Message
        );
        Assert.StartsWith(
            $"The tokenizer {folder["none.json"]} cannot be read: ",
            Assert.Throws<UserException>(() => TextTokenizers.Load(folder["none.json"])).Message,
            StringComparison.Ordinal
        );
        Assert.Equal(
            "The tokenizer is bpe, but must be byte, or a file whose name ends in .json (Hugging Face's "
                + "tokenizer.json) or .tiktoken.",
            Assert.Throws<UserException>(() => TextTokenizers.Load("bpe")).Message
        );
    }

    [Fact]
    public void Load_AnyDamage_LoadsOrThrowsAUserException()
    {
        string intact = TinyTokenizer.Json().ToJsonString();
        for (int seed = 0; seed < 200; seed++)
        {
            var mutations = new Mutations(seed);
            string path = folder["damaged.json"];
            if (mutations.OneOf(2))
                File.WriteAllText(path, mutations.Json(intact));
            else
                File.WriteAllBytes(path, mutations.Bytes(Encoding.UTF8.GetBytes(intact)));
            try
            {
                TextTokenizers.Load(path).Encode("hello world é");
            }
            catch (UserException) { }
            catch (Exception error)
            {
                Assert.Fail($"{mutations}: {error}");
            }
        }
    }
}
