namespace LongNet.Trainer.Data.Tokenization;

/// <summary>Turns text into tokens and back. Safe to use from several threads at once.</summary>
internal interface ITextTokenizer
{
    /// <summary>Its name in messages and tables: byte, or its file's name.</summary>
    string Name { get; }

    /// <summary>Tokens are 0 … VocabularySize − 1; not every number of them need be in use.</summary>
    int VocabularySize { get; }

    /// <summary>The token between documents; null where there is none. No text is encoded to it.</summary>
    int? EndOfText { get; }

    /// <summary>
    /// SHA-256 over the file and the rules by which text is split, lower-case hexadecimal: tokenizers of equal
    /// fingerprints give equal tokens.
    /// </summary>
    string Fingerprint { get; }

    /// <summary>Where a text can be split into parts that, encoded one by one, give the same tokens.</summary>
    SplitPoints SplitPoints { get; }

    /// <summary>Whether bytes that are no UTF-8 are encoded as U+FFFD, which loses them.</summary>
    bool RequiresUtf8 { get; }

    /// <summary>Appends the tokens of a text.</summary>
    /// <param name="text">UTF-8.</param>
    /// <param name="tokens">Appended to.</param>
    void Encode(ReadOnlySpan<byte> text, List<int> tokens);

    /// <summary>
    /// The bytes of a text that a token stands for; none for special tokens and for numbers not in use.
    /// </summary>
    ReadOnlySpan<byte> BytesOf(int token);
}

/// <summary>Where a text can be split into parts that, encoded one by one, give the same tokens.</summary>
internal enum SplitPoints
{
    None,

    /// <summary>Between any two bytes.</summary>
    Anywhere,

    /// <summary>Between a letter and white space of ASCII after it.</summary>
    AfterLetters,
}
