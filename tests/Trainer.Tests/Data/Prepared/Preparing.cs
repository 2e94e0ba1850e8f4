using LongNet.Trainer.Data;
using LongNet.Trainer.Data.Prepared;
using LongNet.Trainer.Data.Tokenization;

namespace LongNet.Trainer.Tests.Data.Prepared;

/// <summary>Preparations within the test's process.</summary>
internal static class Preparing
{
    /// <summary>Prepares text.</summary>
    /// <returns>The file.</returns>
    public static string Run(
        string input,
        ITextTokenizer tokenizer,
        string output,
        int threads = 2,
        Action<string>? say = null
    )
    {
        var plan = new PreparationPlan(Corpus.Open([input], [], "--input", "--exclude"), tokenizer);
        Assert.True(
            new Preparation(plan, output, say ?? (_ => { })).Run(
                threads,
                new PreparationProgress(TextWriter.Null, isTerminal: false, 1)
            )
        );
        return output;
    }

    /// <summary>All tokens of a file.</summary>
    public static int[] Tokens(string path)
    {
        TokenFile file = TokenFile.Open(path);
        var tokens = new int[file.Tokens];
        using ITokenSource source = file.OpenTokens();
        source.Read(0, tokens);
        return tokens;
    }
}
