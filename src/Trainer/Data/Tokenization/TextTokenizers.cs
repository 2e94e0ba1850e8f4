using System.Text;
using LongNet.Core;

namespace LongNet.Trainer.Data.Tokenization;

/// <summary>Tokenizers by what data.tokenizer and --tokenizer call them.</summary>
internal static class TextTokenizers
{
    /// <summary>The tokenizer that needs no file.</summary>
    public const string Byte = "byte";

    /// <summary>Whether it is byte, or the name of a file that <see cref="Load"/> may take.</summary>
    public static bool IsNameOrFile(string tokenizer)
    {
        return tokenizer == Byte || IsHuggingFace(tokenizer) || IsTiktoken(tokenizer);
    }

    /// <summary>Reads a tokenizer.</summary>
    /// <param name="tokenizer">byte, or the path of a file.</param>
    /// <exception cref="UserException">The file cannot be used; says why.</exception>
    public static ITextTokenizer Load(string tokenizer)
    {
        if (tokenizer == Byte)
            return ByteTokenizer.Instance;
        try
        {
            return IsHuggingFace(tokenizer) ? HuggingFaceFile.Load(tokenizer)
                : IsTiktoken(tokenizer) ? TiktokenFile.Load(tokenizer)
                : throw new UserException($"The tokenizer is {tokenizer}, but must be {Choices}.");
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new UserException($"The tokenizer {tokenizer} cannot be read: {error.Message}");
        }
    }

    /// <summary>What a tokenizer may be, for messages.</summary>
    public const string Choices =
        "byte, or a file whose name ends in .json (Hugging Face's tokenizer.json) or .tiktoken";

    /// <summary>The text of tokens; what is no UTF-8 becomes U+FFFD.</summary>
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

    private static bool IsHuggingFace(string path) => path.EndsWith(".json", StringComparison.OrdinalIgnoreCase);

    private static bool IsTiktoken(string path) => path.EndsWith(".tiktoken", StringComparison.OrdinalIgnoreCase);
}
