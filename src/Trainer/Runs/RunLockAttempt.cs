using LongNet.Core;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Runs;

/// <summary>A lock file that this process has acquired.</summary>
/// <param name="File">Locked by the system where it can. Owned.</param>
/// <param name="Self">What the file says.</param>
/// <param name="StaleHolder">Whose lock was taken over; null where there was none.</param>
internal sealed record AcquiredLockFile(LockFile File, RunLockHolder Self, string? StaleHolder);

/// <summary>
/// One attempt to acquire a run's lock, with one opening of its file. It ends in one of three ways: the file is
/// acquired, another run has it, or the file was removed or replaced meanwhile and the next attempt must open it again.
/// </summary>
/// <remarks>
/// The system's lock keeps others of this machine out. Whether the holder that the file names has ended is then known
/// where it was a process of this machine. Otherwise only its heartbeat can show it, so that the text must stay as it
/// is for longer than a holder leaves between beats: the old text, before this process writes its own, and its own
/// after that, as of several processes that take over at once the last that writes has the lock.
/// </remarks>
internal sealed class RunLockAttempt : IDisposable
{
    /// <summary>The first beat of a holder. A process that is about to take the lock over writes 0.</summary>
    public const long FirstBeat = 1;

    // One and a half beats, as disks may be slow.
    private const int LooksPerBeat = 2,
        Looks = 3;

    private readonly string folder;
    private readonly RunLockOptions options;
    private readonly bool isNew;
    private LockFile? file;

    private RunLockAttempt(string folder, RunLockOptions options, LockFile file, bool isNew) =>
        (this.folder, this.options, this.file, this.isNew) = (folder, options, file, isNew);

    private enum Outcome
    {
        /// <summary>The system keeps other openings of the file out.</summary>
        Locked,

        /// <summary>The file system has no locks.</summary>
        Unsupported,

        /// <summary>Another has it, and has removed the file since.</summary>
        Gone,
    }

    // What is to be seen at the path, which may be another file by now.
    private string Path => file!.Path;

    /// <summary>Makes the file, or opens the one that is there.</summary>
    /// <returns>Null where it was removed in between.</returns>
    /// <exception cref="IOException">The file system refuses.</exception>
    public static RunLockAttempt? Open(string folder, string path, RunLockOptions options)
    {
        if (LockFile.Create(path) is { } created)
            return new RunLockAttempt(folder, options, created, isNew: true);
        return LockFile.Open(path) is { } opened ? new RunLockAttempt(folder, options, opened, isNew: false) : null;
    }

    /// <summary>Acquires the lock; takes some beats where only a heartbeat shows whether the holder lives.</summary>
    /// <returns>Null where the file was removed or replaced meanwhile.</returns>
    /// <exception cref="UserException">Another run has it.</exception>
    /// <exception cref="IOException">The file system refuses.</exception>
    public AcquiredLockFile? Run()
    {
        Outcome outcome = LockBySystem();
        if (outcome == Outcome.Gone || !file!.IsAtPath() || LockFile.Read(Path) is not { } earlierText)
            return null;
        RunLockHolder? earlier = RunLockHolder.Parse(earlierText);
        RunLockHolder self = RunLockHolder.OfThisProcess(options.Time);
        bool isFree = isNew || (outcome == Outcome.Locked && earlier?.HasEnded() == true);
        if (isFree)
        {
            Write(self);
        }
        else
        {
            if (!TakeOver(earlierText, earlier, self))
                return null;
            // From the second beat on, another that finds this text knows that it is no mere attempt.
            self = self with { Heartbeat = FirstBeat };
            Write(self);
        }

        var acquired = new AcquiredLockFile(file, self, isNew ? null : Describe(earlier));
        file = null;
        return acquired;
    }

    public void Dispose() => file?.Dispose();

    private static string Describe(RunLockHolder? earlier) =>
        earlier is null ? "a run that it does not name" : $"{earlier}, which ended without removing it";

    private Outcome LockBySystem()
    {
        int error = options.Lock(file!);
        if (error == 0)
            return Outcome.Locked;
        if (LockFile.IsUnsupported(error))
            return Outcome.Unsupported;
        if (error != LockFile.IsLocked)
            throw LockFile.Failure(Path, error);
        if (LockFile.Read(Path) is not { } text)
            return Outcome.Gone;
        // A dead run's text is there until the process that has locked the file writes its own.
        RunLockHolder? holder = RunLockHolder.Parse(text);
        throw InUse(holder?.HasEnded() == true ? null : holder);
    }

    // False where the file was removed or replaced meanwhile.
    private bool TakeOver(byte[] earlierText, RunLockHolder? earlier, RunLockHolder self)
    {
        if (!Confirm(earlierText, earlier))
            return false;
        Write(self);
        return Confirm(self.ToText(), earlier) && file!.IsAtPath();
    }

    // Watches that nobody writes over a text for longer than a holder leaves between beats. False where it is gone.
    private bool Confirm(byte[] text, RunLockHolder? earlier)
    {
        using var never = new ManualResetEventSlim();
        for (int look = 0; look < Looks; look++)
        {
            options.Wait(options.Beat / LooksPerBeat, never);
            if (LockFile.Read(Path) is not { } now)
                return false;
            if (!now.AsSpan().SequenceEqual(text))
                throw InUse(RunLockHolder.Parse(now) ?? earlier);
        }

        return true;
    }

    private void Write(RunLockHolder self)
    {
        try
        {
            file!.Write(self.ToText());
        }
        catch (IOException) when (isNew)
        {
            File.Delete(Path);
            throw;
        }
    }

    private UserException InUse(RunLockHolder? holder)
    {
        string who = holder is null
            ? $"another run, which its {RunLock.FileName} does not name"
            : $"{holder} (since {holder.Started.ToUniversalTime():yyyy-MM-dd HH:mm:ss} UTC)";
        return new UserException(
            $"The run directory {folder} is in use by {who}: wait for it to end, stop it, or choose another --output."
        );
    }
}
