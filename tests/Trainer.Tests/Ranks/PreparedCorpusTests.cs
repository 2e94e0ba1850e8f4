using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Data;
using LongNet.Trainer.Data.Prepared;
using LongNet.Trainer.Tests.Data.Prepared;
using LongNet.Trainer.Tests.Data.Tokenization;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>Training on files of longnet data prepare, through the program.</summary>
public sealed class PreparedCorpusTests : IDisposable
{
    private const int SequenceLength = 512,
        Sequences = 4;

    // float32 sums in another order, over 20 steps of training; as in RanksAgreeTests.
    private const double Tolerance = 1e-5;

    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Fact]
    public void Train_OverPreparedBytePairs_LearnsAndCountsRealBytes()
    {
        string tokenizer = TinyTokenizer.Write(folder),
            corpus = folder["corpus.tokens"];
        Prepare(corpus, tokenizer);
        string[] settings =
        [
            "--set",
            $"data.path=[{corpus}]",
            "--set",
            $"model.vocabulary={TinyTokenizer.VocabularySize}",
        ];
        ProgramResult result = TrainingJob.RanksAgree(
            MpiKind.None,
            1,
            1,
            folder["run"],
            [.. settings, "--set", $"data.tokenizer={tokenizer}", "--set", "checkpoint.every_steps=10"]
        );
        TokenFile file = TokenFile.Open(corpus);
        CorpusSplit split = CorpusSplit.Create(file.Tokens, SequenceLength, 0.05);
        Assert.Contains(
            $"corpus: corpus.tokens ({file.Header.Documents} documents, tokenizer tokenizer.json), "
                + $"{split.TrainingWindows} training and {split.ValidationWindows} held-out windows of 512 "
                + "tokens\n",
            result.Output,
            StringComparison.Ordinal
        );

        double[] loss = TrainingJob.Values(folder["run"], "loss");
        // Untrained tokens cost ln 286 = 5.66 nats.
        Assert.InRange(loss[0], 5.4, 5.9);
        Assert.InRange(loss[^1], 1.0, 4.9);

        // The bytes of the targets of the windows that are evaluated.
        int[] tokens = Preparing.Tokens(corpus);
        long bytes = Enumerable
            .Range(0, Sequences)
            .Sum(place =>
            {
                long window = split.TrainingWindows + place * split.ValidationWindows / Sequences;
                return tokens
                    .Skip((int)window * SequenceLength + 1)
                    .Take(SequenceLength)
                    .Sum(token => file.BytesOfTokens!.Value.Span[token]);
            });
        double bytesPerToken = (double)bytes / (Sequences * SequenceLength);
        Assert.InRange(bytesPerToken, 1.1, 2.5);
        foreach (
            var (nats, bits) in TrainingJob
                .Values(folder["run"], "eval_loss")
                .Zip(TrainingJob.Values(folder["run"], "eval_bits_per_byte"))
        )
            Assert.Equal(nats / Math.Log(2) / bytesPerToken, bits);

        TrainingJob.RanksAgree(MpiKind.OpenMpi, 1, 2, folder["two"], settings);
        foreach (string key in new[] { "loss", "grad_norm", "eval_loss", "eval_bits_per_byte" })
            Compare.AssertClose(
                TrainingJob.Values(folder["two"], key),
                TrainingJob.Values(folder["run"], key),
                Tolerance,
                key
            );

        // The tokenizer's file is not needed, nor does it count as a change where it is gone.
        File.Delete(tokenizer);
        ProgramResult resumed = TrainingJob.RanksAgree(
            MpiKind.None,
            1,
            1,
            folder["resumed"],
            [.. settings, "--resume", folder["run/checkpoints/step-00000010"]]
        );
        Assert.DoesNotContain("warning", resumed.Output, StringComparison.Ordinal);
        Assert.Equal(loss[10..], TrainingJob.Values(folder["resumed"], "loss"));
    }

    [Fact]
    public void Train_OverPreparedBytes_IsBitwiseTheRunOverTheText()
    {
        Prepare(folder["bytes.tokens"], "byte");
        TrainingJob.RanksAgree(MpiKind.None, 1, 1, folder["text"], "--steps", "5");
        TrainingJob.RanksAgree(
            MpiKind.None,
            1,
            1,
            folder["prepared"],
            "--steps",
            "5",
            "--set",
            $"data.path=[{folder["bytes.tokens"]}]"
        );
        foreach (string key in new[] { "loss", "grad_norm", "eval_loss", "eval_bits_per_byte" })
            Assert.Equal(TrainingJob.Values(folder["text"], key), TrainingJob.Values(folder["prepared"], key));
    }

    [Fact]
    public void Train_TokenizerThatDoesNotFit_IsToldWithWhatToDo()
    {
        string tokenizer = TinyTokenizer.Write(folder),
            corpus = folder["corpus.tokens"];
        Prepare(corpus, tokenizer);
        Fails(
            $"model.vocabulary is 256, but data.path {corpus} was prepared with tokenizer.json, whose "
                + "vocabulary is 286: set model.vocabulary: 286, or more.",
            $"data.path=[{corpus}]"
        );
        System.Text.Json.Nodes.JsonObject json = TinyTokenizer.Json();
        json["model"]!["merges"]!.AsArray().RemoveAt(3);
        string other = TinyTokenizer.Write(folder, json, "other.json");
        Fails(
            $"data.path {corpus} was prepared with tokenizer.json, which is not the tokenizer that "
                + $"data.tokenizer {other} names: "
                + "remove data.tokenizer to train on it as it is, or prepare the text again.",
            $"data.path=[{corpus}]",
            "model.vocabulary=286",
            $"data.tokenizer={other}"
        );
        string text = Repository.PathOf("configs/text/*.txt");
        Fails(
            $"data.tokenizer is {tokenizer}, and data.path names text, which is tokenized before training: "
                + $"run longnet data prepare --input '{text}' "
                + $"--tokenizer {tokenizer} --output ranks-agree.tokens, then set data.path to the file that it "
                + "writes.",
            $"data.path=[{text}]",
            $"data.tokenizer={tokenizer}"
        );
        Fails(
            $"data.path names {corpus}, which is prepared, and 1 more: name one prepared file alone, made "
                + "of all the text.",
            $"data.path=[{corpus},{text}]"
        );
    }

    [Fact]
    public void Train_DamagedFile_IsTold()
    {
        string corpus = folder["corpus.tokens"];
        Prepare(corpus, "byte");
        byte[] whole = File.ReadAllBytes(corpus);
        File.WriteAllBytes(corpus, whole[..^5000]);
        const string WhatToDo = "Copy it again, or prepare the text again with longnet data prepare.";
        Fails(
            $"{corpus} is damaged: it has {whole.Length - 5000} bytes, and {whole.Length} were written. {WhatToDo}",
            $"data.path=[{corpus}]"
        );
        // The high byte of every token, so that whichever is read first is wrong.
        for (long place = TokenFileHeader.Bytes + 1; place < whole.Length / 2; place += 2)
            whole[place] = 1;
        File.WriteAllBytes(corpus, whole);
        ProgramResult result = Run($"data.path=[{corpus}]");
        Assert.Matches(
            $"^longnet: {corpus} is damaged: token [0-9]+ is [0-9]+, and the vocabulary is 256. {WhatToDo}\n$",
            result.Error
        );
        Assert.Equal(2, result.ExitCode);
    }

    private void Prepare(string output, string tokenizer) =>
        ProgramRun
            .ToEnd(
                TimeSpan.FromMinutes(1),
                Repository.LongNet,
                [
                    "data",
                    "prepare",
                    "--input",
                    Repository.PathOf("configs/text/*.txt"),
                    "--tokenizer",
                    tokenizer,
                    "--output",
                    output,
                ]
            )
            .AssertSuccess();

    private void Fails(string message, params string[] settings)
    {
        ProgramResult result = Run(settings);
        Assert.Equal($"longnet: {message}\n", result.Error);
        Assert.Equal(2, result.ExitCode);
        Assert.False(Directory.Exists(folder["run"]));
    }

    private ProgramResult Run(params string[] settings) =>
        ProgramRun.ToEnd(
            TimeSpan.FromMinutes(1),
            Repository.LongNet,
            TrainingJob.RanksAgreeArguments(
                1,
                1,
                folder["run"],
                [.. settings.SelectMany(each => new[] { "--set", each })]
            )
        );
}
