using CsCheck;
using LongNet.Trainer.Data.Tokenization;

namespace LongNet.Trainer.Tests.Data.Tokenization;

public class TextSplitterTests
{
    private static readonly Dictionary<string, string> Patterns = new()
    {
        ["gpt2"] = TextSplitter.Gpt2,
        ["cl100k"] = TextSplitter.Cl100k,
        ["o200k"] = TextSplitter.O200k,
    };

    [Theory]
    [InlineData("gpt2", "It's 2025, isn't it?\n\n  Yes", "It|'s| 2025|,| isn|'t| it|?|\n\n | Yes")]
    [InlineData("cl100k", "It's 2025, isn't it?\n\n  Yes", "It|'s| |202|5|,| isn|'t| it|?\n\n| | Yes")]
    [InlineData("o200k", "It's HTTPServer 12345!\n/x", "It's| HTTPServer| |123|45|!\n/|x")]
    // A character beyond U+FFFF is one character, of its own category.
    [InlineData("cl100k", "😀hello 𝐀𝐁c 𝟘𝟙𝟚𝟛 a😀", "😀hello| 𝐀𝐁c| |𝟘𝟙𝟚|𝟛| a|😀")]
    [InlineData("gpt2", "😀hello 𝐀𝐁c", "😀|hello| 𝐀𝐁c")]
    public void Split_KnownRules_GivesTheirPieces(string rules, string text, string pieces) =>
        Assert.Equal(pieces, string.Join('|', Pieces(new TextSplitter(Patterns[rules]), text)));

    [Theory]
    [InlineData("gpt2")]
    [InlineData("cl100k")]
    [InlineData("o200k")]
    public void Split_PartsBetweenALetterAndSpace_GivesThePiecesOfTheWhole(string rules)
    {
        var splitter = new TextSplitter(Patterns[rules]);
        Assert.True(splitter.SeparatesLettersFromSpace);
        string[] characters =
        [
            "a",
            "B",
            "s",
            "t",
            "'",
            " ",
            " ",
            "\n",
            "\r",
            "\t",
            "1",
            "/",
            ".",
            "é",
            "漢",
            "\u0301",
            "😀",
            "𝐀",
            "\u00a0",
            "\0",
        ];
        Gen.Int[0, characters.Length - 1]
            .Array[0, 40]
            .Sample(
                choices =>
                {
                    string text = string.Concat(choices.Select(choice => characters[choice]));
                    var parts = new List<string>();
                    int from = 0;
                    for (int at = 1; at < text.Length; at++)
                    {
                        // As SplitPointFinder splits it: letters beyond U+FFFF too.
                        bool letter =
                            System.Text.Rune.DecodeLastFromUtf16(text.AsSpan(0, at), out var last, out _)
                                == System.Buffers.OperationStatus.Done
                            && System.Text.Rune.IsLetter(last);
                        if (letter && text[at] is ' ' or '\t' or '\n' or '\r')
                        {
                            parts.Add(text[from..at]);
                            from = at;
                        }
                    }

                    parts.Add(text[from..]);
                    Assert.Equal(Pieces(splitter, text), parts.SelectMany(part => Pieces(splitter, part)));
                    Assert.Equal(text, string.Concat(Pieces(splitter, text)));
                },
                iter: 20000,
                threads: 1
            );
    }

    private static IEnumerable<string> Pieces(TextSplitter splitter, string text) =>
        splitter.Split(text).Select(piece => text.Substring(piece.Start, piece.Length));
}
