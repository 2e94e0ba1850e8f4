using System.Security.Cryptography;
using LongNet.Trainer.Configuration;

namespace LongNet.Trainer.Data.Tokenization;

/// <summary>Every byte is a token, and byte 0, which no text has, ends one.</summary>
internal sealed class ByteTokenizer : ITextTokenizer
{
    private static readonly byte[] Values = [.. Enumerable.Range(0, 256).Select(value => (byte)value)];

    private ByteTokenizer() { }

    public static ByteTokenizer Instance { get; } = new();

    public string Name => TokenizerName.Byte;

    public int VocabularySize => 256;

    public int? EndOfText => 0;

    public string Fingerprint { get; } = Convert.ToHexStringLower(SHA256.HashData("longnet byte 1"u8));

    public SplitPoints SplitPoints => SplitPoints.Anywhere;

    public bool RequiresUtf8 => false;

    public void Encode(ReadOnlySpan<byte> text, List<int> tokens)
    {
        tokens.EnsureCapacity(tokens.Count + text.Length);
        foreach (byte value in text)
            tokens.Add(value);
    }

    public ReadOnlySpan<byte> BytesOf(int token) => Values.AsSpan(token, 1);
}
