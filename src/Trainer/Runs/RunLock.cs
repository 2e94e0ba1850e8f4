using LongNet.Core;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Runs;

/// <summary>
/// Keeps two runs out of one run directory: its file .lock is locked, and says which process holds it. A run that is
/// killed leaves the file, and the next run takes it over.
/// </summary>
/// <remarks>
/// The lock of the file decides on one machine, and wherever the file system carries it between machines. Where it does
/// not, or has no such locks, the heartbeat shows whether a holder lives, by its movement only, as machines' clocks
/// differ. <see cref="RunLockAttempt"/> has the rules of taking over. The file of a dead holder is written over and
/// never removed, because two processes could then each have a file of the same name.
/// </remarks>
internal sealed class RunLock : IDisposable
{
    public const string FileName = ".lock";

    /// <summary>Name of the thread that beats while the lock is kept.</summary>
    internal const string HeartName = "longnet-run-lock";

    // A file that is found removed or replaced was another's for a moment. A link to nowhere stays one.
    private const int MaxAttempts = 1000;

    private readonly AcquiredLockFile acquired;
    private readonly IReadOnlyList<string> madeFolders;
    private readonly RunLockOptions options;
    private readonly ManualResetEventSlim ended = new();
    private readonly Thread heart;
    private volatile RunLockHolder? taker;

    private RunLock(AcquiredLockFile acquired, IReadOnlyList<string> madeFolders, RunLockOptions options)
    {
        (this.acquired, this.madeFolders, this.options) = (acquired, madeFolders, options);
        heart = new Thread(KeepBeating) { IsBackground = true, Name = HeartName };
        heart.Start();
    }

    /// <summary>
    /// Whose lock was taken over, such as "process 4711 on node2, which ended without removing it"; null where there
    /// was none.
    /// </summary>
    public string? StaleHolder => acquired.StaleHolder;

    /// <summary>
    /// Who has taken the lock over, such as "process 4711 on node2": this process stood still for so long that it
    /// looked dead, where only a heartbeat shows it. The run directory is that run's then. Null until that happens.
    /// </summary>
    public string? TakenOverBy => taker?.ToString();

    /// <summary>
    /// Acquires the lock, and makes the folder where it is missing. Takes some beats where only a heartbeat shows
    /// whether the holder lives.
    /// </summary>
    /// <param name="folder">The run directory.</param>
    /// <param name="options">The program's where null.</param>
    /// <exception cref="UserException">Another run has it, or the folder cannot be written.</exception>
    internal static RunLock Acquire(string folder, RunLockOptions? options = null)
    {
        options ??= RunLockOptions.Default;
        string path = Path.Combine(Path.GetFullPath(folder), FileName);
        var made = new List<string>();
        AcquiredLockFile? acquired = null;
        try
        {
            for (int attempt = 0; acquired is null && attempt < MaxAttempts; attempt++)
            {
                // A run that has just ended may have removed it.
                made.AddRange(DurableFile.CreateFolder(folder));
                using RunLockAttempt? opened = RunLockAttempt.Open(folder, path, options);
                acquired = opened?.Run();
            }

            return acquired is not null
                ? new RunLock(acquired, made, options)
                : throw new IOException($"{path}: whenever it is opened, it is gone.");
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw RunDirectory.CannotWrite(folder, error);
        }
        finally
        {
            if (acquired is null)
                RemoveEmpty(made);
        }
    }

    /// <summary>
    /// Reads the file to see whether the lock has been taken over by now, rather than wait for the next beat. Then
    /// <see cref="TakenOverBy"/> says by whom.
    /// </summary>
    public bool CheckTakenOver()
    {
        // An attempt to take over ends when it sees the holder beat; a holder that was taken over must not beat over
        // the other.
        if (Read() is { Heartbeat: >= RunLockAttempt.FirstBeat } other && other.Token != acquired.Self.Token)
            taker = other;
        return taker is not null;
    }

    /// <summary>Removes the file, and the folder where it was made for the lock and nothing has come into it.</summary>
    public void Dispose()
    {
        if (ended.IsSet)
            return;
        ended.Set();
        heart.Join();
        // While it is locked, so that no other run has the same file. Another's that stands in its place is not
        // removed.
        IgnoreDiskErrors(() =>
        {
            if (acquired.File.IsAtPath() && Read()?.Token == acquired.Self.Token)
                File.Delete(acquired.File.Path);
        });
        acquired.File.Dispose();
        RemoveEmpty(madeFolders);
    }

    private static void RemoveEmpty(IReadOnlyList<string> folders)
    {
        foreach (string folder in folders.Reverse())
            IgnoreDiskErrors(() => Directory.Delete(folder));
    }

    // The disk is full, the folder gone or in use, or the server out of reach: a run continues, and ends, without.
    private static void IgnoreDiskErrors(Action action)
    {
        try
        {
            action();
        }
        catch (Exception error) when (DiskError.Is(error)) { }
    }

    // Null where the file cannot be read, or says nothing.
    private RunLockHolder? Read()
    {
        RunLockHolder? holder = null;
        IgnoreDiskErrors(() =>
            holder = LockFile.Read(acquired.File.Path) is { } text ? RunLockHolder.Parse(text) : null
        );
        return holder;
    }

    private void KeepBeating()
    {
        RunLockHolder self = acquired.Self;
        while (!options.Wait(options.Beat, ended))
        {
            if (CheckTakenOver())
                return;
            self = self with { Heartbeat = self.Heartbeat + 1 };
            IgnoreDiskErrors(() => acquired.File.Write(self.ToText()));
        }
    }
}
