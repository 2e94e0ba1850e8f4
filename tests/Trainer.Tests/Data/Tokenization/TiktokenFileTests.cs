using System.Diagnostics;
using System.Text;
using System.Text.Json.Nodes;
using LongNet.Core;
using LongNet.TestKit;
using LongNet.Trainer.Data.Tokenization;
using Microsoft.ML.Tokenizers;

namespace LongNet.Trainer.Tests.Data.Tokenization;

public sealed class TiktokenFileTests(Cl100k cl100k) : IClassFixture<Cl100k>, IDisposable
{
    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    // What OpenAI's documentation of tiktoken gives.
    [Theory]
    [InlineData("hello world", "15339 1917")]
    [InlineData("tiktoken is great!", "83 1609 5963 374 2294 0")]
    [InlineData("antidisestablishmentarianism", "519 85342 34500 479 8997 2191")]
    [InlineData("2 + 2 = 4", "17 489 220 17 284 220 19")]
    [InlineData("お誕生日おめでとう", "33334 45918 243 21990 9080 33334 62004 16556 78699")]
    public void Encode_Cl100k_IsTiktokens(string text, string tokens)
    {
        ITextTokenizer tokenizer = TextTokenizers.Load(cl100k.Path);
        Assert.Equal(tokens, string.Join(' ', tokenizer.Encode(text)));
        Assert.Equal(text, tokenizer.Decode(tokenizer.Encode(text)));
    }

    [Fact]
    public void Load_Cl100k_HasItsSpecialTokens()
    {
        ITextTokenizer tokenizer = TextTokenizers.Load(cl100k.Path);
        Assert.Equal(
            ("cl100k_base.tiktoken", 100277, 100257, SplitPoints.AfterLetters),
            (tokenizer.Name, tokenizer.VocabularySize, tokenizer.EndOfText!.Value, tokenizer.SplitPoints)
        );
        Assert.DoesNotContain(100257, tokenizer.Encode("<|endoftext|>"));
        Assert.Equal(0, tokenizer.BytesOf(100276).Length);
    }

    [Fact]
    public void Encode_ThisRepository_IsTheLibrarysAndComesBack()
    {
        ITextTokenizer tokenizer = TextTokenizers.Load(cl100k.Path);
        var library = TiktokenTokenizer.CreateForEncoding("cl100k_base");
        foreach (string file in Directory.GetFiles(Repository.PathOf("src/Core"), "*.cs", SearchOption.AllDirectories))
        {
            string text = File.ReadAllText(file);
            List<int> tokens = tokenizer.Encode(text);
            Assert.Equal(library.EncodeToIds(text), tokens);
            Assert.Equal(Encoding.UTF8.GetBytes(text), tokens.SelectMany(token => tokenizer.BytesOf(token).ToArray()));
        }
    }

    [Fact]
    public void Encode_TheSameVocabularyAsATokenizerJson_GivesTheSameTokens()
    {
        // Every way in which a token is two others is a pair, and pairs are merged in the order of what they make.
        Dictionary<string, int> ranks = [];
        for (int rank = 0; rank < cl100k.Tokens.Count; rank++)
            ranks[ByteCharacters.Of(cl100k.Tokens[rank])] = rank;
        var merges = new JsonArray();
        foreach (string token in ranks.OrderBy(entry => entry.Value).Select(entry => entry.Key))
        {
            for (int at = 1; at < token.Length; at++)
            {
                if (ranks.ContainsKey(token[..at]) && ranks.ContainsKey(token[at..]))
                    merges.Add((JsonNode)new JsonArray(token[..at], token[at..]));
            }
        }

        JsonObject json = TinyTokenizer.Json();
        json["added_tokens"]![0]!["id"] = 100257;
        json["model"]!["vocab"] = new JsonObject(
            ranks.Select(entry => KeyValuePair.Create(entry.Key, (JsonNode?)entry.Value))
        );
        json["model"]!["merges"] = merges;
        json["model"]!["ignore_merges"] = true;
        json["pre_tokenizer"] = new JsonObject
        {
            ["type"] = "Sequence",
            ["pretokenizers"] = new JsonArray(
                new JsonObject
                {
                    ["type"] = "Split",
                    ["pattern"] = new JsonObject { ["Regex"] = TextSplitter.Cl100k },
                    ["behavior"] = "Isolated",
                    ["invert"] = false,
                },
                new JsonObject
                {
                    ["type"] = "ByteLevel",
                    ["add_prefix_space"] = false,
                    ["use_regex"] = false,
                }
            ),
        };
        ITextTokenizer expected = TextTokenizers.Load(cl100k.Path),
            actual = TextTokenizers.Load(TinyTokenizer.Write(folder, json));
        Assert.Equal(SplitPoints.AfterLetters, actual.SplitPoints);
        string[] texts =
        [
            .. Directory
                .GetFiles(Repository.PathOf("docs"), "*.md", SearchOption.AllDirectories)
                .Select(File.ReadAllText),
            "zażółć 漢字仮名 😀hello 𝐀𝐁c\r\n\r\n  x مرحبا",
        ];
        foreach (string text in texts)
            Assert.Equal(expected.Encode(text), actual.Encode(text));
    }

    [Fact]
    public void BytePairMerger_LongPieces_GivesWhatTheLibraryGives()
    {
        Dictionary<string, int> ranks = [];
        for (int rank = 0; rank < cl100k.Tokens.Count; rank++)
            ranks[BytePairMerger.KeyOf(cl100k.Tokens[rank])] = rank;
        var merger = new BytePairMerger(ranks);
        var library = TiktokenTokenizer.CreateForEncoding("cl100k_base");
        var random = new Random(1);
        foreach (string alphabet in new[] { "a", "ab", "ACGT", "etaoinshrdlu", "漢字かéa", " \n=" })
        {
            for (int length = 1; length < 600; length += 1 + length / 3)
            {
                string piece = string.Concat(
                    Enumerable.Range(0, length).Select(_ => alphabet[random.Next(alphabet.Length)])
                );
                var tokens = new List<int>();
                merger.Encode(Encoding.UTF8.GetBytes(piece), tokens);
                Assert.Equal(
                    library.EncodeToIds(piece, considerPreTokenization: false, considerNormalization: false),
                    tokens
                );
            }
        }
    }

    [Fact]
    public void Encode_AMillionLettersWithoutSpace_TakesSeconds()
    {
        ITextTokenizer tokenizer = TextTokenizers.Load(cl100k.Path);
        var random = new Random(1);
        string text = string.Concat(Enumerable.Range(0, 1_000_000).Select(_ => "ACGT"[random.Next(4)]));
        var clock = Stopwatch.StartNew();
        Assert.Equal(text, tokenizer.Decode(tokenizer.Encode(text)));
        // It takes about two; a time that grows with the square of the length would be minutes.
        Assert.InRange(clock.Elapsed.TotalSeconds, 0, 30);
    }

    [Theory]
    [InlineData(
        "other.tiktoken",
        "IQ== 0",
        "its name must say by which rules text is split, so it must begin with one of cl100k_base, "
            + "o200k_base, p50k_base, r50k_base"
    )]
    [InlineData("cl100k_base.tiktoken", "IQ==", "line 1 is not a token in base 64, a space and its rank")]
    [InlineData("cl100k_base.tiktoken", "IQ== 0\n\nIg== x", "line 3 is not a token in base 64, a space and its rank")]
    [InlineData("cl100k_base.tiktoken", "IQ== 0\nIg== 0", "line 2 gives rank 0 again")]
    [InlineData("cl100k_base.tiktoken", "IQ== 0\nIQ== 1", "its tokens 0 and 1 are the same bytes")]
    [InlineData("cl100k_base.tiktoken", "IQ== 99999999999", "line 1 is not a token in base 64, a space and its rank")]
    [InlineData("cl100k_base.tiktoken", "", "byte 0 is no token, so not every text has tokens")]
    [InlineData("r50k_base.tiktoken", "IQ== 50256", "its token 50256 is the end of text in r50k_base")]
    public void Load_OneMistake_IsNamed(string name, string text, string problem)
    {
        string path = folder.Write(name, text);
        Assert.Equal(
            $"The tokenizer {path} cannot be used: {problem}.",
            Assert.Throws<UserException>(() => TextTokenizers.Load(path)).Message
        );
    }
}
