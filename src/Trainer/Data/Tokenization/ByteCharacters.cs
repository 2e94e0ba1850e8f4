namespace LongNet.Trainer.Data.Tokenization;

/// <summary>
/// The printable characters by which byte-level vocabularies write bytes, GPT-2's: those that are printable in Latin-1
/// as they are, the others from U+0100 on.
/// </summary>
internal static class ByteCharacters
{
    private static readonly char[] Characters = Make();
    private static readonly Dictionary<char, byte> Values = Enumerable
        .Range(0, 256)
        .ToDictionary(value => Characters[value], value => (byte)value);

    /// <summary>The character of a byte.</summary>
    public static char Of(byte value) => Characters[value];

    /// <summary>Bytes as a vocabulary writes them.</summary>
    public static string Of(ReadOnlySpan<byte> bytes) => string.Create(bytes.Length, bytes, (text, values) =>
        {
            for (int at = 0; at < text.Length; at++)
                text[at] = Characters[values[at]];
        });

    /// <summary>What a vocabulary writes, as bytes; null where a character is none of these.</summary>
    public static byte[]? Bytes(string text)
    {
        var bytes = new byte[text.Length];
        for (int at = 0; at < text.Length; at++)
        {
            if (!Values.TryGetValue(text[at], out bytes[at]))
                return null;
        }

        return bytes;
    }

    private static char[] Make()
    {
        var characters = new char[256];
        int next = 256;
        for (int value = 0; value < 256; value++)
            characters[value] = value is (>= '!' and <= '~') or (>= 0xa1 and <= 0xac) or >= 0xae
                ? (char)value
                : (char)next++;
        return characters;
    }
}
