using System.Text;
using System.Text.Json;
using LongNet.Core;
using LongNet.TestKit;
using LongNet.Trainer.Data.Prepared;
using LongNet.Trainer.Data.Tokenization;
using LongNet.Trainer.Tests.Data.Tokenization;

namespace LongNet.Trainer.Tests.Data.Prepared;

public sealed class PreparationTests : IDisposable
{
    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void Run_LargeFileInParts_GivesTheTokensOfTheWhole()
    {
        string text = LongText(PreparationPlan.PartBytes * 5 / 2);
        string input = folder.Write("text.txt", text);
        ITextTokenizer tokenizer = TextTokenizers.Load(TinyTokenizer.Write(folder));
        AssertSame(
            [.. tokenizer.Encode(text)],
            Preparing.Tokens(Preparing.Run(input, tokenizer, folder["tiny.tokens"]))
        );
        DocumentStart start = Assert.Single(TokenFile.Open(folder["tiny.tokens"]).ReadIndex());
        Assert.Equal(new DocumentStart(0, 0), start);
        AssertSame(
            [.. Encoding.UTF8.GetBytes(text)],
            Preparing.Tokens(Preparing.Run(input, ByteTokenizer.Instance, folder["byte.tokens"]))
        );
    }

    [Fact]
    public void Run_TextWithoutPlacesToCut_IsEncodedWhole()
    {
        // Digits and signs: no letter before white space.
        string text = string.Concat(Enumerable.Range(0, 1_200_000).Select(number => $"{number % 977}. "));
        string input = folder.Write("text.txt", text);
        Assert.True(text.Length > PreparationPlan.PartBytes, "one part would be no test");
        ITextTokenizer tokenizer = TextTokenizers.Load(TinyTokenizer.Write(folder));
        AssertSame(
            [.. tokenizer.Encode(text)],
            Preparing.Tokens(Preparing.Run(input, tokenizer, folder["tiny.tokens"]))
        );
    }

    [Fact]
    public void Run_AnyNumberOfThreads_GivesTheSameBytes()
    {
        for (int file = 0; file < 3; file++)
            folder.Write($"text/{file}.txt", LongText(PreparationPlan.PartBytes * (file + 1) / 2));
        ITextTokenizer tokenizer = TextTokenizers.Load(TinyTokenizer.Write(folder));
        byte[] one = File.ReadAllBytes(Preparing.Run(folder["text"], tokenizer, folder["one.tokens"], threads: 1));
        Assert.Equal(
            one,
            File.ReadAllBytes(Preparing.Run(folder["text"], tokenizer, folder["four.tokens"], threads: 4))
        );
        Assert.False(Directory.Exists(folder["one.tokens.partial"]));
    }

    [Fact]
    public void Run_LinesOfJson_AreDocuments()
    {
        string[] texts =
        [
            .. Enumerable
                .Range(0, 3000)
                .Select(document => $"document {document}:\n\"é😀\" {LongText(document % 100 * 40)}"),
        ];
        // Other keys, an object with a text of its own, blank and empty ones between.
        string lines =
            "\n"
            + string.Concat(
                texts.Select(
                    (text, document) =>
                        JsonSerializer.Serialize(
                            document % 2 == 0
                                ? (object)new { text }
                                : new
                                {
                                    id = document,
                                    meta = new { text = "not this" },
                                    text,
                                }
                        )
                        + (document % 3 == 0 ? "\r\n\n" : "\n")
                        + (document % 5 == 0 ? "{\"text\":\"\"}\n" : "")
                )
            );
        Assert.True(lines.Length > PreparationPlan.PartBytes, "one part would be no test");
        string input = folder.Write("text.jsonl", lines);
        ITextTokenizer tokenizer = TextTokenizers.Load(TinyTokenizer.Write(folder));
        TokenFile file = TokenFile.Open(Preparing.Run(input, tokenizer, folder["lines.tokens"]));
        Assert.Equal(texts.Sum(Encoding.UTF8.GetByteCount), file.Header.TextBytes);
        int[] tokens = Preparing.Tokens(file.Path);
        DocumentStart[] starts = [.. file.ReadIndex()];
        Assert.Equal(texts.Length, starts.Length);
        for (int document = 0; document < texts.Length; document++)
        {
            int end = document + 1 < texts.Length ? (int)starts[document + 1].FirstToken - 1 : tokens.Length;
            Assert.Equal(texts[document], tokenizer.Decode(tokens[(int)starts[document].FirstToken..end]));
            Assert.True(end == tokens.Length || tokens[end] == TinyTokenizer.EndOfText);
        }
    }

    [Theory]
    [InlineData("{\"text\":\"a\"}\n{\"txt\":\"b\"}\n", 13)]
    [InlineData("[1]", 0)]
    [InlineData("{\"text\":7}", 0)]
    [InlineData("{\"text\":\"a\"} x", 0)]
    [InlineData("{\"text\":\"\\ud800\"}", 0)]
    [InlineData("{\"text\":\"a\"", 0)]
    public void Run_LineWithoutText_IsNamed(string lines, int place)
    {
        string input = folder.Write("text.jsonl", lines);
        Assert.Equal(
            $"{input}: the line at byte {place} is no JSON object with its text in \"text\": mend the line, "
                + "or leave the file out with --exclude.",
            Assert.Throws<UserException>(() => Preparing.Run(input, ByteTokenizer.Instance, folder["x.tokens"])).Message
        );
        Assert.False(File.Exists(folder["x.tokens"]));
    }

    [Fact]
    public void Run_OnlyEmptyTexts_IsRefused()
    {
        string input = folder.Write("text.jsonl", "{\"text\":\"\"}\n");
        Assert.Equal(
            $"--input holds no text: every \"text\" of {input} is empty.",
            Assert.Throws<UserException>(() => Preparing.Run(input, ByteTokenizer.Instance, folder["x.tokens"])).Message
        );
    }

    [Fact]
    public void Run_BytesThatAreNoUtf8_AreTold()
    {
        File.WriteAllBytes(folder["text.txt"], [0x61, 0xff, 0x62]);
        var printed = new List<string>();
        ITextTokenizer tokenizer = TextTokenizers.Load(TinyTokenizer.Write(folder));
        Preparing.Run(folder["text.txt"], tokenizer, folder["tiny.tokens"], say: printed.Add);
        Assert.Equal([$"note: {folder["text.txt"]} has bytes that are no UTF-8; each became U+FFFD."], printed);
        Assert.Equal("a\ufffdb", tokenizer.Decode(Preparing.Tokens(folder["tiny.tokens"])));
        Assert.Equal(
            [0x61, 0xff, 0x62],
            Preparing.Tokens(Preparing.Run(folder["text.txt"], ByteTokenizer.Instance, folder["byte.tokens"]))
        );
    }

    [Fact]
    public void Run_PartsOfOlderText_AreNotUsed()
    {
        string input = folder.Write("text.txt", LongText(PreparationPlan.PartBytes * 2));
        string expected = Preparing.Run(input, ByteTokenizer.Instance, folder["expected.tokens"]);
        // As a preparation of another tokenizer, stopped before its end, leaves it.
        Directory.CreateDirectory(folder["x.tokens.partial"]);
        folder.Write("x.tokens.partial/plan", "another");
        folder.Write("x.tokens.partial/part-00000000", "damaged");
        var printed = new List<string>();
        Preparing.Run(input, ByteTokenizer.Instance, folder["x.tokens"], say: printed.Add);
        Assert.Equal(
            [
                $"note: {folder["x.tokens.partial"]} was of other text, another tokenizer or older files, so "
                    + "nothing of it is used.",
            ],
            printed
        );
        Assert.Equal(File.ReadAllBytes(expected), File.ReadAllBytes(folder["x.tokens"]));
    }

    [Fact]
    public void Run_PartThatIsDamaged_IsMadeAgain()
    {
        string input = folder.Write("text.txt", LongText(PreparationPlan.PartBytes * 3 / 2));
        byte[] expected = File.ReadAllBytes(Preparing.Run(input, ByteTokenizer.Instance, folder["expected.tokens"]));
        var plan = new PreparationPlan(
            LongNet.Trainer.Data.Corpus.Open([input], [], "--input", "--exclude"),
            ByteTokenizer.Instance
        );
        folder.Write("x.tokens.partial/plan", plan.Fingerprint);
        EncodedPart part = new PartEncoder(plan).Encode(plan.Parts[1]);
        part.Save(folder["x.tokens.partial/part-00000001"]);
        byte[] bytes = File.ReadAllBytes(folder["x.tokens.partial/part-00000001"]);
        bytes[1000] ^= 1;
        File.WriteAllBytes(folder["x.tokens.partial/part-00000001"], bytes);
        var printed = new List<string>();
        Preparing.Run(input, ByteTokenizer.Instance, folder["x.tokens"], say: printed.Add);
        Assert.Equal([$"going on in {folder["x.tokens.partial"]}: 1 of 2 parts are finished."], printed);
        Assert.Equal(expected, File.ReadAllBytes(folder["x.tokens"]));
    }

    // Millions of tokens, which Assert.Equal compares one by one.
    private static void AssertSame(int[] expected, int[] actual) =>
        Assert.True(
            expected.AsSpan().SequenceEqual(actual),
            $"{actual.Length} tokens, and {expected.Length} expected; the same are "
                + $"{expected.AsSpan().CommonPrefixLength(actual)}"
        );

    /// <summary>
    /// Text with words, numbers, accents and characters of every length in UTF-8; the same for the same length.
    /// </summary>
    internal static string LongText(long bytes)
    {
        string[] words =
        [
            "hello",
            " world",
            " the",
            "\n    public",
            " 12345",
            ", ",
            "é",
            " 漢字かな",
            "😀",
            "\r\n",
            "  ",
            " string",
            "'s",
            "!",
        ];
        var random = new Random((int)bytes);
        var text = new StringBuilder();
        for (long written = 0; written < bytes; )
        {
            string word = words[random.Next(words.Length)];
            text.Append(word);
            written += Encoding.UTF8.GetByteCount(word);
        }

        return text.ToString();
    }
}
