using System.Runtime.InteropServices;
using System.Text.Json;
using System.Text.Unicode;
using LongNet.Core;
using LongNet.Trainer.Data.Tokenization;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>Encodes parts of a text. One part is in memory at a time.</summary>
internal sealed class PartEncoder(PreparationPlan plan)
{
    /// <summary>Bytes of the longest text that is encoded at once.</summary>
    public const long MaxBytes = 256L << 20;

    private readonly List<int> tokens = [];
    private readonly List<DocumentStart> documents = [];
    private long textBytes;
    private long unreadableFile = -1;

    /// <summary>Encodes a part.</summary>
    /// <exception cref="UserException">A file has changed, or cannot be encoded.</exception>
    public EncodedPart Encode(TextPart part)
    {
        tokens.Clear();
        documents.Clear();
        (textBytes, unreadableFile) = (0, -1);
        for (int file = part.FirstFile; file < part.FirstFile + part.Files; file++)
        {
            try
            {
                EncodeFile(file, part);
            }
            catch (Exception error) when (DiskError.Is(error))
            {
                throw new UserException($"{plan.Files[file].Path} cannot be read: {error.Message}");
            }
        }

        return EncodedPart.Make(
            CollectionsMarshal.AsSpan(tokens),
            plan.TokenBytes,
            documents,
            textBytes,
            unreadableFile
        );
    }

    private void EncodeFile(int number, TextPart part)
    {
        CorpusFile described = plan.Files[number];
        using FileStream file = File.OpenRead(described.Path);
        if (file.Length != described.Bytes || File.GetLastWriteTimeUtc(described.Path) != plan.Times[number])
            throw new UserException(
                $"{described.Path} has changed while it was prepared: leave the text alone, and run the "
                    + "same command again."
            );
        bool isLines = PreparationPlan.IsLines(described);
        long from = 0,
            to = described.Bytes;
        if (part.Files == 1)
        {
            from = SplitPointFinder.Next(file, part.From, isLines, plan.Tokenizer.SplitPoints);
            to = SplitPointFinder.Next(file, part.To, isLines, plan.Tokenizer.SplitPoints);
        }

        if (to - from > MaxBytes)
            throw TooLong(described, from, to - from, isLines);

        if (to == from)
            return;
        var text = new byte[to - from];
        file.Position = from;
        file.ReadExactly(text);
        if (isLines)
            EncodeLines(number, text, from);
        else
            Encode(number, text, isStart: from == 0);
    }

    private UserException TooLong(CorpusFile file, long from, long bytes, bool isLines)
    {
        string where =
            plan.Tokenizer.SplitPoints == SplitPoints.None
                ? "not at all with this tokenizer's rules"
                : "there is none there";
        string remedy = isLines
            ? "shorten the line."
            : $"split the file (text is cut between a letter and white space, and {where}).";
        return new UserException(
            $"{file.Path} has {bytes} bytes from byte {from} on that must be encoded at once, "
                + $"and this program takes {MaxBytes}: {remedy}"
        );
    }

    private void EncodeLines(int number, byte[] text, long from)
    {
        var unescaped = Array.Empty<byte>();
        foreach (Range range in MemoryExtensions.Split(text.AsSpan(), (byte)'\n'))
        {
            ReadOnlySpan<byte> line = text.AsSpan(range).Trim(" \t\r"u8);
            if (line.Length == 0)
                continue;
            if (unescaped.Length < line.Length)
                unescaped = new byte[line.Length];
            int length = TextOf(line, unescaped);
            if (length < 0)
            {
                throw new UserException(
                    $"{plan.Files[number].Path}: the line at byte "
                        + $"{from + range.GetOffsetAndLength(text.Length).Offset} is no JSON object with its text "
                        + "in \"text\": "
                        + "mend the line, or leave the file out with --exclude."
                );
            }

            if (length > 0)
                Encode(number, unescaped.AsSpan(0, length), isStart: true);
        }
    }

    // The "text" of the object itself, not of objects in it; its length, or −1 where there is none.
    private static int TextOf(ReadOnlySpan<byte> line, byte[] text)
    {
        try
        {
            var json = new Utf8JsonReader(line);
            int length = -1;
            bool isObject = json.Read() && json.TokenType == JsonTokenType.StartObject;
            while (isObject && json.Read() && json.TokenType == JsonTokenType.PropertyName)
            {
                bool isText = json.ValueTextEquals("text"u8);
                json.Read();
                if (isText)
                    length = json.TokenType == JsonTokenType.String ? json.CopyString(text) : -1;
                else
                    json.Skip();
            }

            return isObject && !json.Read() ? length : -1;
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            return -1;
        }
    }

    private void Encode(int number, ReadOnlySpan<byte> text, bool isStart)
    {
        if (plan.Tokenizer.RequiresUtf8 && unreadableFile < 0 && !Utf8.IsValid(text))
            unreadableFile = number;
        if (isStart)
        {
            if (plan.Tokenizer.EndOfText is { } end)
                tokens.Add(end);
            documents.Add(new DocumentStart(tokens.Count, textBytes));
        }

        plan.Tokenizer.Encode(text, tokens);
        textBytes += text.Length;
    }
}
