namespace LongNet.Trainer.Data;

/// <summary>The text that a run trains on, as one sequence of tokens.</summary>
internal interface ITokenCorpus
{
    /// <summary>Distinguishes corpora.</summary>
    string Fingerprint { get; }

    /// <summary>Its contents in short, for the log.</summary>
    string Summary { get; }

    /// <summary>Unit of its tokens, for the log: "bytes" or "tokens".</summary>
    string TokenUnit { get; }

    /// <summary>Name of the tokenizer.</summary>
    string Tokenizer { get; }

    /// <summary>Tokens are below this.</summary>
    int VocabularySize { get; }

    /// <summary>Tokens in all.</summary>
    long Tokens { get; }

    /// <summary>Bytes of text that each token of the vocabulary stands for; null where every token is a byte.</summary>
    ReadOnlyMemory<ushort>? BytesOfTokens { get; }

    /// <summary>Opens it to be read.</summary>
    ITokenSource OpenTokens();
}

/// <summary>A corpus that is open to be read. For one thread.</summary>
internal interface ITokenSource : IDisposable
{
    /// <summary>Tokens in all.</summary>
    long Length { get; }

    /// <summary>Copies tokens.</summary>
    /// <param name="start">First token.</param>
    /// <param name="destination">Filled; must end within the source.</param>
    /// <exception cref="Core.UserException">A file has changed since the run started, or is damaged.</exception>
    void Read(long start, Span<int> destination);
}
