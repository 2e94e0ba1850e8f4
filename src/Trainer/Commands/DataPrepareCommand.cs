using System.CommandLine;
using LongNet.Trainer.Checkpoints.Tools;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;
using LongNet.Trainer.Data.Prepared;
using LongNet.Trainer.Data.Tokenization;

namespace LongNet.Trainer.Commands;

/// <summary>longnet data prepare: text, tokenized once, in a file that training maps into memory.</summary>
internal static class DataPrepareCommand
{
    public static Command Create()
    {
        var input = new Option<string[]>("--input", "-i")
        {
            Description =
                "Files, folders or globs of text; each file is a document, and of .jsonl files the \"text\" "
                + "of each line",
            HelpName = "PATH",
            Required = true,
            AllowMultipleArgumentsPerToken = true,
        };
        Option<string> tokenizer = new Option<string>("--tokenizer")
        {
            Description = TokenizerName.Choices,
            HelpName = "byte|FILE",
            DefaultValueFactory = _ => TokenizerName.Byte,
        }.MustBe(TokenizerName.IsValid, TokenizerName.Choices);
        var output = new Option<string>("--output", "-o")
        {
            Description = $"File to write, NAME{TokenFile.Extension}",
            HelpName = "FILE",
            Required = true,
        };
        output.Validators.Add(result =>
        {
            if (
                result.Tokens.Count == 1
                && !result.Tokens[0].Value.EndsWith(TokenFile.Extension, StringComparison.Ordinal)
            )
                result.AddError(
                    $"--output is {result.Tokens[0].Value}, but its name must end in {TokenFile.Extension}."
                );
        });
        Option<int> threads = new Option<int>("--threads")
        {
            Description = "Parts of the text that are encoded at once; default: as many as there are processors",
            DefaultValueFactory = _ => Environment.ProcessorCount,
        }.AtLeastOne();
        var exclude = new Option<string[]>("--exclude")
        {
            Description = "Globs left out of folders and globs; default: those of data.exclude",
            HelpName = "GLOB",
            AllowMultipleArgumentsPerToken = true,
            DefaultValueFactory = _ => [.. new DataConfig { Path = [] }.Exclude],
        };
        var command = new Command(
            "prepare",
            "Tokenizes text into one file to train on. The same command goes on where it was stopped"
        )
        {
            input,
            tokenizer,
            output,
            threads,
            exclude,
        };
        command.SetAction(parsed =>
            RankProgram.RunOnRoot(() =>
            {
                string file = parsed.GetRequiredValue(output);
                // The parts that a stopped preparation left beside its output are no text.
                Corpus text = Corpus.Open(
                    parsed.GetRequiredValue(input),
                    [.. parsed.GetValue(exclude)!, $"**/*{Preparation.PartialFolder(TokenFile.Extension)}/**"],
                    "--input",
                    "--exclude"
                );
                var plan = new PreparationPlan(text, TextTokenizers.Load(parsed.GetValue(tokenizer)!));
                var progress = new PreparationProgress(
                    Console.Out,
                    isTerminal: !Console.IsOutputRedirected,
                    text.Files.Sum(each => each.Bytes)
                );
                if (!new Preparation(plan, file, Console.WriteLine).Run(parsed.GetValue(threads), progress))
                    return 0;
                TokenFileHeader made = TokenFile.Open(file).Header;
                Console.WriteLine(
                    $"{file}: {made.Tokens} tokens of {made.Documents} documents, "
                        + $"{(double)made.TextBytes / made.Tokens:F3} bytes per token, "
                        + $"{CheckpointSummary.Megabytes(made.FileBytes)} MB, in {progress.Seconds:F1} s"
                );
                return 0;
            })
        );
        return command;
    }
}
