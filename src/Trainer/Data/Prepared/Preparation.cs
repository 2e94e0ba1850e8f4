using System.Buffers.Binary;
using System.Runtime.ExceptionServices;
using System.Security.Cryptography;
using LongNet.Core;
using LongNet.Trainer.Data.Tokenization;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>
/// Makes a prepared file. Parts of the text are encoded side by side, each into a file of its own in a folder beside
/// the output; when all are there they are joined to one file, which takes its name at the end. Whatever stops it, the
/// parts that are whole are not made again.
/// </summary>
/// <param name="plan">What to encode.</param>
/// <param name="output">The file to make.</param>
/// <param name="say">Takes lines for the user.</param>
internal sealed class Preparation(PreparationPlan plan, string output, Action<string> say)
{
    private readonly string folder = PartialFolder(output);

    private string PlanFile => Path.Combine(folder, "plan");

    /// <summary>Where parts wait.</summary>
    public static string PartialFolder(string output) => DurableFile.PartialOf(output);

    /// <summary>Prepares the text.</summary>
    /// <param name="threads">Parts that are encoded at once.</param>
    /// <param name="progress">Told of every part.</param>
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
            say($"{output} is already there, of this text and tokenizer: nothing to do.");
            RemoveFolder();
            return false;
        }

        DurableFile.CreateFolder(folder);
        using (FileStream held = Hold())
        {
            TakeFolder();
            EncodedPart[] parts = Encode(threads, progress);
            progress.Finish();
            Tell(parts);
            Join(parts);
        }

        RemoveFolder();
        return true;
    }

    // The plan is the same, and no file of the text is newer.
    private bool IsDone() =>
        TokenFile.HasMagic(output)
        && TokenFile.Open(output).Header.SourceFingerprint == plan.SourceFingerprint
        && File.GetLastWriteTimeUtc(output) >= plan.Times.Max();

    private FileStream Hold()
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

    // Parts of another text, tokenizer or time are none of this plan's.
    private void TakeFolder()
    {
        string[] others = Directory.GetFiles(folder, "part-*");
        if (File.Exists(PlanFile) && File.ReadAllText(PlanFile) == plan.Fingerprint)
        {
            int finished = Enumerable.Range(0, plan.Parts.Count).Count(part => File.Exists(PathOf(part)));
            say($"going on in {folder}: {finished} of {plan.Parts.Count} parts are finished.");
            return;
        }

        if (others.Length > 0)
            say($"note: {folder} was of other text, another tokenizer or older files, so nothing of it is used.");
        foreach (string other in others)
            File.Delete(other);
        DurableFile.Write(PlanFile, plan.Fingerprint);
    }

    private string PathOf(int part) => Path.Combine(folder, $"part-{part:D8}");

    private EncodedPart[] Encode(int threads, PreparationProgress progress)
    {
        var encoded = new EncodedPart[plan.Parts.Count];
        int next = -1;
        var workers = new Task[Math.Min(threads, plan.Parts.Count)];
        Exception? failure = null;
        for (int worker = 0; worker < workers.Length; worker++)
            workers[worker] = Task.Factory.StartNew(
                Work,
                CancellationToken.None,
                TaskCreationOptions.LongRunning,
                TaskScheduler.Default
            );
        Task.WaitAll(workers);
        if (failure is not null)
            ExceptionDispatchInfo.Throw(failure);
        FileOperations.Real.SyncFolder(folder);
        return encoded;

        void Work()
        {
            var encoder = new PartEncoder(plan);
            try
            {
                for (
                    int part = Interlocked.Increment(ref next);
                    part < encoded.Length && Volatile.Read(ref failure) is null;
                    part = Interlocked.Increment(ref next)
                )
                {
                    EncodedPart? before = EncodedPart.Find(PathOf(part), plan.TokenBytes);
                    encoded[part] = before ?? encoder.Encode(plan.Parts[part]);
                    if (before is null)
                        encoded[part].Save(PathOf(part));
                    progress.Add(plan.BytesOf(plan.Parts[part]), wasThere: before is not null);
                }
            }
            catch (Exception error)
            {
                Interlocked.CompareExchange(ref failure, error, null);
            }
        }
    }

    private void Tell(EncodedPart[] parts)
    {
        long[] unreadable = [.. parts.Select(part => part.UnreadableFile).Where(file => file >= 0).Distinct()];
        if (unreadable.Length > 0)
            say(
                $"note: {plan.Files[(int)unreadable[0]].Path} "
                    + $"{(unreadable.Length > 1 ? $"and at least {unreadable.Length - 1} more have" : "has")} "
                    + "bytes that are no UTF-8; each became U+FFFD."
            );
        if (parts.Sum(part => part.Documents) == 0)
            throw new UserException(
                "--input holds no text: every \"text\" of "
                    + $"{plan.Files[0].Path}{(plan.Files.Count > 1 ? " and the other files" : "")} is empty."
            );
    }

    private void Join(EncodedPart[] parts)
    {
        ITextTokenizer tokenizer = plan.Tokenizer;
        // The token between documents is before each but the first of all.
        int skip = tokenizer.EndOfText is null ? 0 : 1;
        var header = new TokenFileHeader(
            plan.TokenBytes,
            tokenizer.VocabularySize,
            parts.Sum(part => part.Tokens) - skip,
            parts.Sum(part => part.Documents),
            parts.Sum(part => part.TextBytes),
            tokenizer.EndOfText,
            tokenizer.Fingerprint,
            plan.SourceFingerprint,
            ContentDigest: new string('0', 64),
            tokenizer.Name
        );
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
