using System.CommandLine;
using LongNet.Trainer.Data.Prepared;

namespace LongNet.Trainer.Commands;

/// <summary>longnet data inspect: what a prepared file holds.</summary>
internal static class DataInspectCommand
{
    public static Command Create()
    {
        var path = new Argument<string>("FILE") { Description = "A file of longnet data prepare" };
        var verify = new Option<bool>("--verify")
        {
            Description = "Also reads all of it, and checks it against its SHA-256",
        };
        var command = new Command("inspect", "Shows what a prepared file holds") { path, verify };
        command.SetAction(parsed =>
            RankProgram.RunOnRoot(() =>
            {
                TokenFile file = TokenFile.Open(parsed.GetRequiredValue(path));
                if (parsed.GetValue(verify))
                    file.Verify();
                TokenFileHeader header = file.Header;
                Row("file", $"{parsed.GetRequiredValue(path)}");
                Row("tokens", $"{header.Tokens}, {header.TokenBytes} bytes each");
                Row("documents", $"{header.Documents}");
                Row("bytes of text", $"{header.TextBytes}");
                Row("bytes per token", $"{(double)header.TextBytes / header.Tokens:F4}");
                Row("tokenizer", $"{header.Tokenizer}, {header.TokenizerFingerprint}");
                Row("vocabulary", $"{header.VocabularySize}");
                Row("end of text", header.EndOfText is { } end ? $"{end}" : $"none");
                Row("content", $"{header.ContentDigest}{(parsed.GetValue(verify) ? ", as it was written" : "")}");
                return 0;
            })
        );
        return command;

        static void Row(string name, string value) => Console.WriteLine($"{name, -16} {value}");
    }
}
