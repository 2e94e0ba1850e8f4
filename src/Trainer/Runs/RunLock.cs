using LongNet.Core;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Runs;

/// <summary>
/// Keeps two runs out of one run directory: its file .lock is locked, and says who holds it. A run that is killed
/// leaves the file, and the next run takes it over.
/// </summary>
/// <remarks>
/// The lock of the file decides on one machine, and wherever the file system carries it between machines. Where it does
/// not, or has no such locks, the heartbeat tells a live holder from a dead one, by its movement alone: machines'
/// clocks differ. Of two that take over at once, the one that writes last has it: each waits, longer than a holder
/// between beats, whether its own text stays. The file of a dead holder is written over and never removed, because two
/// would hold two files of the same name.
/// </remarks>
internal sealed class RunLock : IDisposable
{
    public const string FileName = ".lock";

    /// <summary>Time between beats.</summary>
    internal static readonly TimeSpan Beat = TimeSpan.FromSeconds(5);

    // A file that is found removed or replaced was another's for a moment. A link to nowhere is so for ever.
    private const int MostAttempts = 1000;

    // Nobody may write what is to be taken over for longer than a holder leaves between beats, by half for a slow disk:
    // first while the old text is in the file, then while the new is.
    private const int LooksPerBeat = 2,
        Looks = 3;

    // What a run writes that has the lock. One that is about to take it over writes 0.
    private const long FirstBeat = 1;

    private readonly LockFile file;
    private readonly IReadOnlyList<string> madeFolders;
    private readonly TimeSpan beat;
    private readonly ManualResetEventSlim ended = new();
    private readonly Thread heart;
    private RunLockHolder self;
    private volatile RunLockHolder? taker;

    private RunLock(
        LockFile file,
        RunLockHolder self,
        string? staleHolder,
        IReadOnlyList<string> madeFolders,
        TimeSpan beat
    )
    {
        (this.file, this.self, StaleHolder, this.madeFolders, this.beat) = (file, self, staleHolder, madeFolders, beat);
        heart = new Thread(Live) { IsBackground = true, Name = "longnet-run-lock" };
        heart.Start();
    }

    /// <summary>
    /// Whose lock was taken over, such as "process 4711 on node2, which ended without removing it"; null where there
    /// was none.
    /// </summary>
    public string? StaleHolder { get; }

    /// <summary>
    /// Who has taken the lock over, such as "process 4711 on node2": this process stood still for so long that it
    /// looked dead, where only a heartbeat can tell. The run directory is that run's then. Null while the lock is held.
    /// </summary>
    public string? TakenOverBy => taker?.ToString();

    /// <summary>Looks whether the lock was taken over, rather than wait for the next beat.</summary>
    public bool IsTakenOver()
    {
        Attempt(() =>
        {
            // An attempt to take over ends when it sees the holder beat; a holder that was taken over must not beat
            // over the other.
            if (
                LockFile.Read(file.Path) is { } text
                && RunLockHolder.Parse(text) is { Heartbeat: >= FirstBeat } other
                && other.Token != self.Token
            )
                taker = other;
        });
        return taker is not null;
    }

    /// <summary>
    /// Takes the lock, and makes the folder where it is missing. Takes some beats where only a heartbeat can tell
    /// whether a lock is held.
    /// </summary>
    /// <param name="folder">The run directory.</param>
    /// <param name="beat">Time between beats; <see cref="Beat"/> where null.</param>
    /// <param name="locks">Locks a file and returns the system's error or 0; <see cref="LockFile.Lock"/> where
    /// null.</param>
    /// <exception cref="UserException">Another run has it, or the folder cannot be written.</exception>
    internal static RunLock Acquire(string folder, TimeSpan? beat = null, Func<LockFile, int>? locks = null)
    {
        string path = Path.Combine(Path.GetFullPath(folder), FileName);
        var made = new List<string>();
        RunLock? held = null;
        try
        {
            for (int attempt = 0; held is null && attempt < MostAttempts; attempt++)
            {
                // A run that has just ended may have removed it.
                made.AddRange(DurableFile.CreateFolder(folder));
                held = Try(folder, path, beat ?? Beat, locks ?? (file => file.Lock()), made);
            }

            return held ?? throw new IOException($"{path}: whenever it is opened, it is gone.");
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw RunDirectory.CannotWrite(folder, error);
        }
        finally
        {
            if (held is null)
                RemoveEmpty(made);
        }
    }

    /// <summary>Removes the file, and the folder where it was made for the lock and nothing has come into it.</summary>
    public void Dispose()
    {
        if (ended.IsSet)
            return;
        ended.Set();
        heart.Join();
        Release();
        RemoveEmpty(madeFolders);
    }

    // Null where the file was removed or replaced meanwhile: to be tried anew.
    private static RunLock? Try(
        string folder,
        string path,
        TimeSpan beat,
        Func<LockFile, int> locks,
        IReadOnlyList<string> made
    )
    {
        LockFile? created = LockFile.Create(path),
            file = created ?? LockFile.Open(path);
        RunLock? held = null;
        try
        {
            if (file is null)
                return null;
            int error = locks(file);
            if (error == LockFile.IsLocked)
            {
                if (LockFile.Read(path) is not { } text)
                    return null;
                // What a dead run wrote and another is about to write over.
                RunLockHolder? holder = RunLockHolder.Parse(text);
                throw InUse(folder, holder?.HasEnded() == true ? null : holder);
            }

            if (error != 0 && !LockFile.IsUnsupported(error))
                throw LockFile.Failure(path, error);
            return held = TakeOver(error == 0);
        }
        finally
        {
            if (held is null)
                file?.Dispose();
        }

        RunLock? TakeOver(bool isLocked)
        {
            if (!file.IsAtPath() || LockFile.Read(path) is not { } found)
                return null;
            RunLockHolder? earlier = RunLockHolder.Parse(found);
            // Where the lock is reliable, on one machine, a process is seen to be gone.
            bool isFree = created is not null || (isLocked && earlier?.HasEnded() == true);
            if (!isFree && !Stays(found, earlier))
                return null;
            RunLockHolder self = RunLockHolder.OfThisProcess();
            byte[] text = self.ToText();
            WriteFirst(text);
            if (!isFree && !(Stays(text, earlier) && file.IsAtPath()))
                return null;
            // From the second beat on, another that finds this text knows that it is no mere attempt.
            self = self with { Heartbeat = FirstBeat };
            if (!isFree)
                file.Write(self.ToText());
            string? stale =
                created is not null ? null
                : earlier is null ? "a run that it does not name"
                : $"{earlier}, which ended without removing it";
            return new RunLock(file, self, stale, made, beat);
        }

        // Whether the text stays; false where the file has gone.
        bool Stays(byte[] text, RunLockHolder? earlier)
        {
            for (int look = 0; look < Looks; look++)
            {
                Thread.Sleep(beat / LooksPerBeat);
                if (LockFile.Read(path) is not { } now)
                    return false;
                if (!now.AsSpan().SequenceEqual(text))
                    throw InUse(folder, RunLockHolder.Parse(now) ?? earlier);
            }

            return true;
        }

        void WriteFirst(byte[] text)
        {
            try
            {
                file.Write(text);
            }
            catch (IOException) when (created is not null)
            {
                File.Delete(path);
                throw;
            }
        }
    }

    private static UserException InUse(string folder, RunLockHolder? holder)
    {
        string who = holder is null
            ? $"another run, which its {FileName} does not name"
            : $"{holder} (since {holder.Started.ToUniversalTime():yyyy-MM-dd HH:mm:ss} UTC)";
        return new UserException(
            $"The run directory {folder} is in use by {who}: wait for it to end, stop it, or choose another --output."
        );
    }

    private static void RemoveEmpty(IReadOnlyList<string> folders)
    {
        foreach (string folder in folders.Reverse())
            Attempt(() => Directory.Delete(folder));
    }

    private static void Attempt(Action action)
    {
        try
        {
            action();
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            // The disk is full, the folder gone or in use, or the server out of reach: a run goes on, and ends,
            // without.
        }
    }

    private void Live()
    {
        while (!ended.Wait(beat))
        {
            if (IsTakenOver())
                return;
            self = self with { Heartbeat = self.Heartbeat + 1 };
            Attempt(() => file.Write(self.ToText()));
        }
    }

    private void Release()
    {
        // While it is locked, so that no other run has the same file. Another's that stands in its place is left alone.
        Attempt(() =>
        {
            if (
                file.IsAtPath()
                && LockFile.Read(file.Path) is { } text
                && RunLockHolder.Parse(text)?.Token == self.Token
            )
                File.Delete(file.Path);
        });
        file.Dispose();
    }
}
