using System.Text;
using LongNet.Core;
using LongNet.Core.Sequences;
using LongNet.TestKit;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;

namespace LongNet.Trainer.Tests.Data;

public sealed class CorpusTests : IDisposable
{
    private readonly TemporaryFolder folder = new();

    public CorpusTests()
    {
        folder.Write("b.txt", "bb");
        folder.Write("a/c.txt", "cccc");
        folder.Write("a/empty.txt", "");
        folder.Write("a/image.txt", "x\0y");
        folder.Write("a/bin/built.txt", "built");
        folder.Write(".git/config.txt", "hidden");
        folder.Write("a/code.cs", "class C;");
    }

    public void Dispose() => folder.Dispose();

    [Theory]
    [InlineData("", "a/c.txt a/code.cs b.txt")]
    [InlineData("**/*.txt", "a/c.txt b.txt")]
    [InlineData("a/*.cs", "code.cs")]
    [InlineData("b.txt", "b.txt")]
    // A file that is named itself is taken, whatever the exclusions say.
    [InlineData("a/bin/built.txt", "built.txt")]
    public void Open_FilesFoldersAndGlobs_TakesTextInOrder(string path, string names) =>
        Assert.Equal(names.Split(' '), Open(folder[path]).Files.Select(file => file.Name));

    [Fact]
    public void Open_SeveralPathsThatOverlap_TakesEveryFileOnce() =>
        Assert.Equal(3, Open(folder["**/*.txt"], folder.Path, folder["b.txt"]).Files.Count);

    [Fact]
    public void Open_Missing_SaysWhatToName()
    {
        Assert.Equal(
            $"data.path {folder["nowhere"]} does not exist: name a file, a directory or a glob of text.",
            Assert.Throws<UserException>(() => Open(folder["nowhere"])).Message
        );
        Assert.Equal(
            $"data.path {folder["nowhere/*.txt"]} matches nothing: the folder {folder["nowhere"]} does not exist.",
            Assert.Throws<UserException>(() => Open(folder["nowhere/*.txt"])).Message
        );
        Assert.Equal(
            $"data.path {folder["*.py"]} matches no file (data.exclude: **/bin/**, **/obj/**, **/runs/**, "
                + "**/.*, **/.*/**).",
            Assert.Throws<UserException>(() => Open(folder["*.py"])).Message
        );
        Assert.Equal(
            $"data.path {folder["a/empty.txt"]} holds no text: every file there is empty, binary or excluded.",
            Assert.Throws<UserException>(() => Open(folder["a/empty.txt"])).Message
        );
    }

    [Fact]
    public void Fingerprint_DependsOnNamesSizesAndText_NotOnWhereItLies()
    {
        string before = Open(folder.Path).Fingerprint;
        using var copy = new TemporaryFolder();
        copy.Write("b.txt", "bb");
        copy.Write("a/c.txt", "cccc");
        copy.Write("a/code.cs", "class C;");
        Assert.Equal(before, Open(copy.Path).Fingerprint);
        copy.Write("b.txt", "bc");
        Assert.NotEqual(before, Open(copy.Path).Fingerprint);
        copy.Write("b.txt", "bbb");
        Assert.NotEqual(before, Open(copy.Path).Fingerprint);
        Assert.StartsWith("3 files, 14 bytes, ", before, StringComparison.Ordinal);
    }

    [Fact]
    public void TokenSource_JoinsDocumentsByAZeroByte()
    {
        using var source = new ByteTokenSource(Open(folder.Path));
        const string Whole = "cccc\0class C;\0bb";
        Assert.Equal(Whole.Length, source.Length);
        for (int start = 0; start <= Whole.Length; start++)
        {
            for (int length = 0; start + length <= Whole.Length; length++)
            {
                var read = new byte[length];
                source.Read(start, read);
                Assert.Equal(Whole.Substring(start, length), Encoding.UTF8.GetString(read));
            }
        }

        Assert.Throws<ArgumentOutOfRangeException>(() => source.Read(Whole.Length - 1, new byte[2]));
    }

    [Theory]
    [InlineData("cc", "has 2 bytes now, and had 4")]
    [InlineData(null, "is gone, and was there")]
    public void TokenSource_TextThatChangesUnderARun_IsNamedBeforeItIsRead(string? text, string problem)
    {
        using var source = new ByteTokenSource(Open(folder.Path));
        source.Read(0, new byte[4]);
        if (text is null)
            File.Delete(folder["a/c.txt"]);
        else
            File.WriteAllText(folder["a/c.txt"], text);
        Assert.Equal(
            $"{folder["a/c.txt"]} {problem} when the run started: leave the text alone while a run reads "
                + "it, and go on from the last checkpoint with --resume auto.",
            Assert.Throws<UserException>(() => source.Read(0, new byte[4])).Message
        );
    }

    [Fact]
    public void TokenSource_MoreFilesThanOpenMaps_ReadsAll()
    {
        using var many = new TemporaryFolder();
        for (int file = 0; file < 200; file++)
            many.Write($"{file:D3}.txt", $"{file:D3}");
        using var source = new ByteTokenSource(Open(many.Path));
        var read = new byte[3];
        foreach (int file in new[] { 0, 199, 100, 3, 150, 0, 77, 199 })
        {
            source.Read(file * 4, read);
            Assert.Equal($"{file:D3}", Encoding.UTF8.GetString(read));
        }

        var all = new byte[source.Length];
        source.Read(0, all);
        Assert.Equal(
            string.Join('\0', Enumerable.Range(0, 200).Select(file => $"{file:D3}")),
            Encoding.UTF8.GetString(all)
        );
    }

    [Fact]
    public void BatchReader_ShardsOfAWindow_AreShiftedBeforeSharding()
    {
        using var text = new TemporaryFolder();
        text.Write("t.txt", "0123456789abcdefg");
        using var source = new ByteTokenSource(Open(text.Path));
        var reader = new BatchReader(source, sequenceLength: 8);
        using var scope = TorchSharp.torch.NewDisposeScope();
        // Windows 1 and 0, rows 4 to 7: the last row's target is the next shard's, or the next window's, first token.
        var (inputs, targets) = reader.Read([1, 0], SequenceShard.Complete(8).Slice(4, 4));
        Assert.Equal("cdef4567", Text(inputs));
        Assert.Equal("defg5678", Text(targets));
        Assert.Equal([2, 4], inputs.shape);

        static string Text(TorchSharp.torch.Tensor tokens) =>
            string.Concat(tokens.data<long>().ToArray().Select(token => (char)token));
    }

    private static Corpus Open(params string[] paths) => Corpus.Open(new DataConfig { Path = paths });
}
