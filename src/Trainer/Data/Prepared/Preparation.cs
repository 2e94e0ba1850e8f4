using System.Buffers.Binary;
using System.Security.Cryptography;
using LongNet.Core;
using LongNet.Trainer.Data.Tokenization;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>
/// Makes a prepared file. Parts of the text are encoded in parallel, each into a file of its own in a folder beside the
/// output; at the end all parts are joined to one file, which is then renamed to the output. A preparation that was
/// stopped, by whatever, continues with the parts that are missing.
/// </summary>
/// <param name="plan">What to encode.</param>
/// <param name="output">The file to make.</param>
/// <param name="print">Prints a line for the user.</param>
internal sealed class Preparation(PreparationPlan plan, string output, Action<string> print)
{
    private readonly string folder = PartialFolder(output);

    private string PlanFile => Path.Combine(folder, "plan");

    /// <summary>The folder of the parts of an output.</summary>
    public static string PartialFolder(string output) => DurableFile.PartialOf(output);

    /// <summary>Prepares the text.</summary>
    /// <param name="threads">Parts that are encoded in parallel.</param>
    /// <param name="progress">Counts the finished parts.</param>
    /// <returns>Whether there was anything to do.</returns>
    /// <exception cref="UserException">A file cannot be encoded, or the output is in the way.</exception>
    public bool Run(int threads, PreparationProgress progress)
    {
        if (Directory.Exists(output))
            throw new UserException($"--output {output} is a folder: name a file in it.");
        if (File.Exists(output))
        {
            if (!IsDone())
                throw new UserException(
                    $"--output {output} is already there, and is not this text with this tokenizer: remove "
                        + "it, or name another file."
                );
            print($"{output} is already there, of this text and tokenizer: nothing to do.");
            RemoveFolder();
            return false;
        }

        DurableFile.CreateFolder(folder);
        using (FileStream folderLock = AcquireLock())
        {
            ClaimFolder();
            EncodedPart[] parts = new ParallelEncoder(plan, PathOf, progress).Run(threads);
            FileOperations.Real.SyncFolder(folder);
            progress.Finish();
            ReportUnreadable(parts);
            CheckNotEmpty(parts);
            Join(parts);
        }

        RemoveFolder();
        return true;
    }

    // Whether the output was made by the same plan, and no file of the text is newer.
    private bool IsDone() =>
        TokenFile.HasMagic(output)
        && TokenFile.Open(output).Header.SourceFingerprint == plan.SourceFingerprint
        && File.GetLastWriteTimeUtc(output) >= plan.Times.Max();

    private FileStream AcquireLock()
    {
        try
        {
            return new FileStream(
                Path.Combine(folder, "lock"),
                FileMode.OpenOrCreate,
                FileAccess.ReadWrite,
                FileShare.None
            );
        }
        catch (IOException)
        {
            throw new UserException(
                $"Another longnet data prepare is writing {output}: wait for it, or name another --output."
            );
        }
    }

    // Removes parts that were made of other text, with another tokenizer or of older files.
    private void ClaimFolder()
    {
        string[] others = Directory.GetFiles(folder, "part-*");
        if (File.Exists(PlanFile) && File.ReadAllText(PlanFile) == plan.Fingerprint)
        {
            int finished = Enumerable.Range(0, plan.Parts.Count).Count(part => File.Exists(PathOf(part)));
            print($"going on in {folder}: {finished} of {plan.Parts.Count} parts are finished.");
            return;
        }

        if (others.Length > 0)
            print($"note: {folder} was of other text, another tokenizer or older files, so nothing of it is used.");
        foreach (string other in others)
            File.Delete(other);
        DurableFile.Write(PlanFile, plan.Fingerprint);
    }

    private string PathOf(int part) => Path.Combine(folder, $"part-{part:D8}");

    private void ReportUnreadable(EncodedPart[] parts)
    {
        long[] unreadable = [.. parts.Select(part => part.UnreadableFile).Where(file => file >= 0).Distinct()];
        if (unreadable.Length > 0)
            print(
                $"note: {plan.Files[(int)unreadable[0]].Path} "
                    + $"{(unreadable.Length > 1 ? $"and at least {unreadable.Length - 1} more have" : "has")} "
                    + "bytes that are no UTF-8; each became U+FFFD."
            );
    }

    private void CheckNotEmpty(EncodedPart[] parts)
    {
        if (parts.Sum(part => part.Documents) == 0)
            throw new UserException(
                "--input holds no text: every \"text\" of "
                    + $"{plan.Files[0].Path}{(plan.Files.Count > 1 ? " and the other files" : "")} is empty."
            );
    }

    private void Join(EncodedPart[] parts)
    {
        ITextTokenizer tokenizer = plan.Tokenizer;
        // Every document begins with the token between documents; the first of all needs none before it.
        int skip = tokenizer.EndOfText is null ? 0 : 1;
        var header = new TokenFileHeader
        {
            TokenBytes = plan.TokenBytes,
            VocabularySize = tokenizer.VocabularySize,
            Tokens = parts.Sum(part => part.Tokens) - skip,
            Documents = parts.Sum(part => part.Documents),
            TextBytes = parts.Sum(part => part.TextBytes),
            EndOfText = tokenizer.EndOfText,
            TokenizerFingerprint = tokenizer.Fingerprint,
            SourceFingerprint = plan.SourceFingerprint,
            ContentDigest = new string('0', 64), // Known when everything after the header is written.
            Tokenizer = tokenizer.Name,
        };
        string joined = Path.Combine(folder, "joined");
        using (var file = new FileStream(joined, FileMode.Create, FileAccess.ReadWrite, FileShare.None, 1 << 20))
        {
            using var digest = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            file.Write(header.Write());
            Write(header, parts, skip, bytes =>
            {
                digest.AppendData(bytes);
                file.Write(bytes);
            });
            file.Position = 0;
            file.Write((header with { ContentDigest = Convert.ToHexStringLower(digest.GetHashAndReset()) }).Write());
            file.Flush(flushToDisk: true);
        }

        FileOperations.Real.Rename(joined, output);
        FileOperations.Real.SyncFolder(Path.GetDirectoryName(Path.GetFullPath(output))!);
    }

    private void Write(TokenFileHeader header, EncodedPart[] parts, int skip, Action<ReadOnlySpan<byte>> write)
    {
        bool first = true;
        for (int part = 0; part < parts.Length; part++)
        {
            if (parts[part].Tokens == 0)
                continue;
            parts[part].CopyTokens(PathOf(part), plan.TokenBytes, first ? skip : 0, write);
            first = false;
        }

        write(new byte[header.IndexStart - TokenFileHeader.Bytes - header.Tokens * plan.TokenBytes]);
        var entry = new byte[TokenFile.IndexEntryBytes];
        long tokens = -skip,
            bytes = 0;
        for (int part = 0; part < parts.Length; part++)
        {
            foreach (DocumentStart document in parts[part].ReadDocuments(PathOf(part), plan.TokenBytes))
            {
                BinaryPrimitives.WriteInt64LittleEndian(entry, tokens + document.FirstToken);
                BinaryPrimitives.WriteInt64LittleEndian(entry.AsSpan(sizeof(long)), bytes + document.FirstByte);
                write(entry);
            }

            tokens += parts[part].Tokens;
            bytes += parts[part].TextBytes;
        }

        var lengths = new byte[plan.Tokenizer.VocabularySize * sizeof(ushort)];
        for (int token = 0; token < plan.Tokenizer.VocabularySize; token++)
            BinaryPrimitives.WriteUInt16LittleEndian(
                lengths.AsSpan(token * sizeof(ushort)),
                checked((ushort)plan.Tokenizer.BytesOf(token).Length)
            );
        write(lengths);
    }

    private void RemoveFolder()
    {
        if (Directory.Exists(folder))
            Directory.Delete(folder, recursive: true);
    }
}
