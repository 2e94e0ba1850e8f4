namespace LongNet.Trainer.Configuration;

/// <summary>What data.tokenizer and --tokenizer may name: a built-in tokenizer, or a file by its extension.</summary>
internal static class TokenizerName
{
    /// <summary>The tokenizer that needs no file.</summary>
    public const string Byte = "byte";

    /// <summary>What a name may be, for messages.</summary>
    public const string Choices =
        "byte, or a file whose name ends in .json (Hugging Face's tokenizer.json) or .tiktoken";

    /// <summary>Whether it is byte, or has the extension of a tokenizer's file; the file need not exist.</summary>
    public static bool IsValid(string name) => name == Byte || IsHuggingFace(name) || IsTiktoken(name);

    public static bool IsHuggingFace(string name) => name.EndsWith(".json", StringComparison.OrdinalIgnoreCase);

    public static bool IsTiktoken(string name) => name.EndsWith(".tiktoken", StringComparison.OrdinalIgnoreCase);
}
