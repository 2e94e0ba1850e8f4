using System.Diagnostics;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Data.Prepared;
using LongNet.Trainer.Tests.Data.Prepared;
using LongNet.Trainer.Tests.Data.Tokenization;

namespace LongNet.Trainer.Tests.Commands;

public sealed class DataCommandTests : IDisposable
{
    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void Inspect_PreparedFile_ShowsWhatItHolds()
    {
        folder.Write("text/a.txt", "hello world\n");
        folder.Write("text/b.txt", "public");
        folder.Write("text/bin/c.txt", "left out");
        string tokenizer = TinyTokenizer.Write(folder);
        ProgramResult prepared = Run(
                "prepare",
                "--input",
                folder["text"],
                "--tokenizer",
                tokenizer,
                "--output",
                "made.tokens"
            )
            .AssertSuccess();
        Assert.Matches(
            "^made.tokens: 5 tokens of 2 documents, 3.600 bytes per token, 0.005 MB, in [0-9]+\\.[0-9] s\n$",
            prepared.Output
        );

        TokenFileHeader header = TokenFile.Open(folder["made.tokens"]).Header;
        Assert.Equal(
            $"""
            file             made.tokens
            tokens           5, 2 bytes each
            documents        2
            bytes of text    18
            bytes per token  3.6000
            tokenizer        tokenizer.json, {header.TokenizerFingerprint}
            vocabulary       {TinyTokenizer.VocabularySize}
            end of text      {TinyTokenizer.EndOfText}
            content          {header.ContentDigest}, as it was written

            """,
            Run("inspect", "made.tokens", "--verify").AssertSuccess().Output
        );
    }

    [Fact]
    public void Prepare_AgainOverItsOutput_DoesNothingUnlessTheTextIsAnother()
    {
        string text = folder.Write("text.txt", "hello world\n");
        Run("prepare", "--input", text, "--output", "made.tokens").AssertSuccess();
        byte[] before = File.ReadAllBytes(folder["made.tokens"]);
        Assert.Equal(
            "made.tokens is already there, of this text and tokenizer: nothing to do.\n",
            Run("prepare", "--input", text, "--output", "made.tokens").AssertSuccess().Output
        );
        string tokenizer = TinyTokenizer.Write(folder);
        const string InTheWay =
            "longnet: --output made.tokens is already there, and is not this text with this tokenizer: "
            + "remove it, or name another file.\n";
        Fails(InTheWay, "prepare", "--input", text, "--tokenizer", tokenizer, "--output", "made.tokens");
        // Newer than what was made of it, though it looks the same.
        File.SetLastWriteTimeUtc(text, DateTime.UtcNow.AddMinutes(1));
        Fails(InTheWay, "prepare", "--input", text, "--output", "made.tokens");
        Assert.Equal(before, File.ReadAllBytes(folder["made.tokens"]));
    }

    [Fact]
    public void Prepare_Mistaken_SaysSo()
    {
        string text = folder.Write("text.txt", "hello world\n");
        Fails(
            "longnet: --input nowhere does not exist: name a file, a directory or a glob of text.\n",
            "prepare",
            "--input",
            "nowhere",
            "--output",
            "x.tokens"
        );
        Fails(
            "longnet: --tokenizer is bpe, but must be byte, or a file whose name ends in .json (Hugging "
                + "Face's tokenizer.json) or .tiktoken.\nlongnet: --help shows what there is.\n",
            "prepare",
            "--input",
            text,
            "--tokenizer",
            "bpe",
            "--output",
            "x.tokens"
        );
        Fails(
            "longnet: --output is x, but its name must end in .tokens.\nlongnet: --help shows what there is.\n",
            "prepare",
            "--input",
            text,
            "--output",
            "x"
        );
        Fails(
            "longnet: --threads is 0, but must be at least 1.\nlongnet: --help shows what there is.\n",
            "prepare",
            "--input",
            text,
            "--output",
            "x.tokens",
            "--threads",
            "0"
        );
        Fails(
            $"longnet: {text} is no prepared file, or its beginning is damaged: write it with longnet data prepare.\n",
            "inspect",
            text
        );
        Assert.Equal(["text.txt"], Directory.GetFileSystemEntries(folder.Path).Select(Path.GetFileName));
    }

    [Fact]
    public void Prepare_KilledAtAnyMoment_GoesOnToTheSameBytes()
    {
        for (int file = 0; file < 4; file++)
            folder.Write($"text/{file}.txt", PreparationTests.LongText(PreparationPlan.PartBytes * 2 + file));
        string tokenizer = TinyTokenizer.Write(folder);
        Run([.. Arguments("straight.tokens")]).AssertSuccess();
        var random = new Random(1);
        int struck = 0;
        for (int kill = 0; kill < 6; kill++)
        {
            using var run = new ProgramRun(Repository.LongNet, ["data", .. Arguments("killed.tokens")], folder.Path);
            // Some wait for one more part, the last for the parts to be joined; the others strike wherever the program
            // then is.
            var clock = Stopwatch.StartNew();
            while (
                !run.HasExited
                && (kill == 5 ? !File.Exists(folder["killed.tokens.partial/joined"]) : kill % 2 == 0 && Parts() <= kill)
            )
            {
                Assert.True(clock.Elapsed < TimeSpan.FromMinutes(1), "no part within a minute");
                Thread.Sleep(1);
            }

            Thread.Sleep(kill == 5 ? 0 : random.Next(kill % 2 == 0 ? 20 : 300));
            struck += run.HasExited ? 0 : 1;
            run.Kill();
        }

        // The first are long before the end, even where the others are slow to strike.
        Assert.InRange(struck, 2, 6);
        bool isThere = File.Exists(folder["killed.tokens"]);
        int finished = Parts();
        ProgramResult last = Run([.. Arguments("killed.tokens")]).AssertSuccess();
        Assert.StartsWith(
            isThere
                ? "killed.tokens is already there, of this text and tokenizer: nothing to do.\n"
                : $"going on in killed.tokens.partial: {finished} of 12 parts are finished.\n",
            last.Output,
            StringComparison.Ordinal
        );
        Assert.Equal(File.ReadAllBytes(folder["straight.tokens"]), File.ReadAllBytes(folder["killed.tokens"]));
        Assert.False(Directory.Exists(folder["killed.tokens.partial"]));

        string[] Arguments(string output) =>
            ["prepare", "--input", folder["text"], "--tokenizer", tokenizer, "--output", output, "--threads", "2"];

        int Parts() =>
            Directory.Exists(folder["killed.tokens.partial"])
                ? Directory.GetFiles(folder["killed.tokens.partial"], "part-????????").Length
                : 0;
    }

    [Fact]
    public void Prepare_SecondOneToTheSameOutput_IsRefused()
    {
        string text = folder.Write("text.txt", "hello world\n");
        Directory.CreateDirectory(folder["x.tokens.partial"]);
        using var lockFile = new FileStream(
            folder["x.tokens.partial/lock"],
            FileMode.Create,
            FileAccess.ReadWrite,
            FileShare.None
        );
        Fails(
            "longnet: Another longnet data prepare is writing x.tokens: wait for it, or name another --output.\n",
            "prepare",
            "--input",
            text,
            "--output",
            "x.tokens"
        );
    }

    [Fact]
    public void Prepare_FullDisk_IsToldAndGoesOnWhenThereIsSpace()
    {
        using SmallDisk disk = SmallDisk.Mount(48);
        string text = folder.Write("text.txt", PreparationTests.LongText(PreparationPlan.PartBytes * 5 / 2));
        // Parts of bytes take 8 MiB each.
        disk.Fill(but: 10 << 20);
        string output = Path.Combine(disk.Path, "x.tokens");
        ProgramResult refused = Run("prepare", "--input", text, "--output", output);
        Assert.Equal(2, refused.ExitCode);
        Assert.Matches("^longnet: No space left on device: .* needs [0-9]+ bytes\\.\n$", refused.Error);
        Assert.False(File.Exists(output));
        disk.Free();
        Run("prepare", "--input", text, "--output", output).AssertSuccess();
        Run("prepare", "--input", text, "--output", "straight.tokens").AssertSuccess();
        Assert.Equal(File.ReadAllBytes(folder["straight.tokens"]), File.ReadAllBytes(output));
    }

    private void Fails(string message, params string[] arguments)
    {
        ProgramResult result = Run(arguments);
        Assert.Equal(message, result.Error);
        Assert.Equal(2, result.ExitCode);
    }

    private ProgramResult Run(params string[] arguments) =>
        ProgramRun.ToEnd(TimeSpan.FromMinutes(2), Repository.LongNet, ["data", .. arguments], folder.Path);
}
