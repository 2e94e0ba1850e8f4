using System.Text;
using LongNet.Core;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Data.Tokenization;

/// <summary>Tokenizers by what data.tokenizer and --tokenizer call them.</summary>
internal static class TextTokenizers
{
    /// <summary>Reads a tokenizer.</summary>
    /// <param name="tokenizer">byte, or the path of a file.</param>
    /// <exception cref="UserException">The file cannot be used; says why.</exception>
    public static ITextTokenizer Load(string tokenizer)
    {
        if (tokenizer == TokenizerName.Byte)
            return ByteTokenizer.Instance;
        try
        {
            return TokenizerName.IsHuggingFace(tokenizer) ? HuggingFaceFile.Load(tokenizer)
                : TokenizerName.IsTiktoken(tokenizer) ? TiktokenFile.Load(tokenizer)
                : throw new UserException($"The tokenizer is {tokenizer}, but must be {TokenizerName.Choices}.");
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw new UserException($"The tokenizer {tokenizer} cannot be read: {error.Message}");
        }
    }

    /// <summary>The text of tokens; bytes that are no UTF-8 become U+FFFD.</summary>
    public static string Decode(this ITextTokenizer tokenizer, IEnumerable<int> tokens)
    {
        using var bytes = new MemoryStream();
        foreach (int token in tokens)
            bytes.Write(tokenizer.BytesOf(token));
        return Encoding.UTF8.GetString(bytes.ToArray());
    }

    /// <summary>The error of a file that cannot be used.</summary>
    internal static UserException Unusable(string path, string why) =>
        new($"The tokenizer {path} cannot be used: {why}.");
}
