using System.Buffers;
using System.Text;
using LongNet.Trainer.Data.Tokenization;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>Finds where a file may be cut, so that its parts, encoded one by one, are the file encoded whole.</summary>
internal static class TextCutter
{
    private const int BlockBytes = 1 << 16,
        LongestCharacter = 4;

    /// <summary>The first place from <paramref name="from"/> on; the file's end where there is none.</summary>
    /// <param name="file">Read from wherever it stands.</param>
    /// <param name="isLines">Whether each line is a document, so that cuts are at lines.</param>
    public static long Next(FileStream file, long from, bool isLines, TextCuts cuts)
    {
        long length = file.Length;
        if (from <= 0 || from >= length)
            return Math.Clamp(from, 0, length);
        if (!isLines && cuts == TextCuts.Anywhere)
            return from;
        // What comes before a block decides whether it may be cut at its first byte.
        byte[] block = new byte[LongestCharacter + BlockBytes];
        for (long start = from; start < length; start += BlockBytes)
        {
            int before = (int)Math.Min(LongestCharacter, start);
            file.Position = start - before;
            int read = file.ReadAtLeast(block, before + BlockBytes, throwOnEndOfStream: false);
            int found = isLines
                ? NextLine(block.AsSpan(0, read), before)
                : NextAfterLetter(block.AsSpan(0, read), before);
            if (found >= 0)
                return start - before + found;
        }

        return length;
    }

    private static int NextLine(ReadOnlySpan<byte> block, int from)
    {
        int newline = block[(from - 1)..].IndexOf((byte)'\n');
        return newline < 0 || from + newline >= block.Length ? -1 : from + newline;
    }

    private static int NextAfterLetter(ReadOnlySpan<byte> block, int from)
    {
        for (int at = from; at < block.Length; at++)
        {
            if (
                block[at] is (byte)' ' or (byte)'\t' or (byte)'\n' or (byte)'\r'
                && Rune.DecodeLastFromUtf8(block[..at], out Rune last, out _) == OperationStatus.Done
                && Rune.IsLetter(last)
            )
            {
                return at;
            }
        }

        return -1;
    }
}
