using System.Buffers;
using System.Text;
using LongNet.Trainer.Data.Tokenization;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>
/// Finds points where a file may be split, so that its parts, encoded one by one, give the tokens of the complete file.
/// </summary>
internal static class SplitPointFinder
{
    private const int BlockBytes = 1 << 16,
        LongestCharacter = 4;

    /// <summary>The first split point from <paramref name="from"/> on; the file's end where there is none.</summary>
    /// <param name="file">Its position is changed.</param>
    /// <param name="isLines">Whether each line is a document, so that the file is split between lines.</param>
    public static long Next(FileStream file, long from, bool isLines, SplitPoints allowed)
    {
        long length = file.Length;
        if (from <= 0 || from >= length)
            return Math.Clamp(from, 0, length);
        if (!isLines && allowed == SplitPoints.Anywhere)
            return from;
        // The character before a block decides whether the block's first byte is a split point.
        byte[] block = new byte[LongestCharacter + BlockBytes];
        for (long start = from; start < length; start += BlockBytes)
        {
            int before = (int)Math.Min(LongestCharacter, start);
            file.Position = start - before;
            int read = file.ReadAtLeast(block, before + BlockBytes, throwOnEndOfStream: false);
            int index = isLines
                ? NextLine(block.AsSpan(0, read), before)
                : NextAfterLetter(block.AsSpan(0, read), before);
            if (index >= 0)
                return start - before + index;
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
