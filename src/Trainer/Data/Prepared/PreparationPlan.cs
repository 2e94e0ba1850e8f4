using System.Security.Cryptography;
using System.Text;
using LongNet.Trainer.Data.Tokenization;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>A part of the text that is encoded at once: some complete files, or a range of one.</summary>
/// <param name="FirstFile">Its first file.</param>
/// <param name="Files">How many files it has.</param>
/// <param name="From">Where it begins in its only file: the first point from here on where text may be split.</param>
/// <param name="To">Where it ends in its only file, likewise; the file's size or beyond for its end.</param>
internal sealed record TextPart(int FirstFile, int Files, long From, long To);

/// <summary>The parts of a text in order, which depend on neither threads nor machine.</summary>
internal sealed class PreparationPlan
{
    /// <summary>Size of a part of a text that may be split anywhere, in bytes.</summary>
    public const long PartBytes = 4 << 20;

    /// <param name="corpus">The text.</param>
    /// <param name="tokenizer">What encodes it.</param>
    public PreparationPlan(Corpus corpus, ITextTokenizer tokenizer)
    {
        Files = corpus.Files;
        Tokenizer = tokenizer;
        Parts = [.. MakeParts()];
        var text = new StringBuilder("longnet data 1\n").Append(tokenizer.Fingerprint).Append('\n');
        foreach (CorpusFile file in Files)
            text.Append($"{file.Name}\t{file.Bytes}\t{file.StartDigest}\n");
        SourceFingerprint = Digest(text);
        Times = [.. Files.Select(file => File.GetLastWriteTimeUtc(file.Path))];
        text.Append($"{PartBytes}\n");
        for (int file = 0; file < Files.Count; file++)
            text.Append($"{Files[file].Path}\t{Times[file].Ticks}\n");
        Fingerprint = Digest(text);
    }

    public IReadOnlyList<CorpusFile> Files { get; }

    /// <summary>When each file was last written.</summary>
    public IReadOnlyList<DateTime> Times { get; }

    public ITextTokenizer Tokenizer { get; }

    public IReadOnlyList<TextPart> Parts { get; }

    /// <summary>Distinguishes texts and tokenizers, independent of where the files lie.</summary>
    public string SourceFingerprint { get; }

    /// <summary>Parts that were finished under the same fingerprint can be used again.</summary>
    public string Fingerprint { get; }

    /// <summary>Bytes per token.</summary>
    public int TokenBytes =>
        Tokenizer.VocabularySize <= TokenFileHeader.LargestTwoByteVocabulary ? sizeof(ushort) : sizeof(int);

    /// <summary>Whether each line of a file is a document.</summary>
    public static bool IsLines(CorpusFile file) => file.Name.EndsWith(".jsonl", StringComparison.OrdinalIgnoreCase);

    /// <summary>Bytes of files that a part stands for, before its ends are moved to split points.</summary>
    public long BytesOf(TextPart part) =>
        part.Files == 1
            ? Math.Min(part.To, Files[part.FirstFile].Bytes) - part.From
            : Files.Skip(part.FirstFile).Take(part.Files).Sum(file => file.Bytes);

    private IEnumerable<TextPart> MakeParts()
    {
        for (int file = 0; file < Files.Count; )
        {
            if (Files[file].Bytes > PartBytes)
            {
                bool isUnsplittable = Tokenizer.SplitPoints == SplitPoints.None && !IsLines(Files[file]);
                long step = isUnsplittable ? Files[file].Bytes : PartBytes;
                for (long from = 0; from < Files[file].Bytes; from += step)
                    yield return new TextPart(file, 1, from, from + step);
                file++;
                continue;
            }

            int first = file;
            for (long bytes = 0; file < Files.Count && Files[file].Bytes <= PartBytes && bytes < PartBytes; file++)
                bytes += Files[file].Bytes;
            yield return new TextPart(first, file - first, 0, Files[first].Bytes);
        }
    }

    private static string Digest(StringBuilder text) =>
        Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text.ToString())));
}
