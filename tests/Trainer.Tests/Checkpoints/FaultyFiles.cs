using LongNet.Trainer.Storage;
using Microsoft.Win32.SafeHandles;

namespace LongNet.Trainer.Tests.Checkpoints;

/// <summary>What befalls a save at one of its operations.</summary>
public enum Fault
{
    /// <summary>The operation does nothing and fails, as on a full disk.</summary>
    Refuse,

    /// <summary>Half of a write's bytes reach the disk, and then it fails.</summary>
    ShortWrite,

    /// <summary>The process is gone before the operation: no later one takes place, so nothing is cleared up.</summary>
    StopBefore,

    /// <summary>The process is gone in the middle of a write.</summary>
    StopWithin,

    /// <summary>The process is gone after the operation.</summary>
    StopAfter,

    /// <summary>
    /// The machine is gone after the operation, and with it every name and every content that was not synced.
    /// </summary>
    PowerCut,

    /// <summary>
    /// The machine is gone after the operation; names were quicker than contents, of which those not synced are zeros.
    /// </summary>
    PowerCutOfContents,
}

/// <summary>
/// There is no process any more that could do anything. Not an error of the disk, which the program would handle.
/// </summary>
public sealed class StoppedException() : Exception("The process is gone.");

/// <summary>
/// The real file system, which records every operation on it and lets one of them end badly. What is synced is only
/// remembered as such: a power cut takes away what is not.
/// </summary>
/// <remarks>
/// Files are written by several threads at once, so a point of a save is named by its operation and file and a count of
/// both, never by a place in the order of all.
/// </remarks>
/// <param name="root">The run's folder. Points are named from here.</param>
internal sealed class FaultyFiles(string root) : FileOperations
{
    private readonly Lock gate = new();
    private readonly Dictionary<string, int> counts = new(StringComparer.Ordinal);
    private readonly List<string> points = [];

    // Contents not synced, and names not synced with the folder that they lie in and how they are undone.
    private readonly HashSet<string> written = new(StringComparer.Ordinal);
    private List<(string Folder, Name Name)> named = [];

    private (string Point, Fault Fault)? struck;
    private bool stopped;

    private abstract record Name;

    private sealed record Made(string Path) : Name;

    private sealed record Renamed(string From, string To, byte[]? Replaced) : Name;

    /// <summary>All operations so far.</summary>
    public IReadOnlyList<string> Points => points;

    /// <summary>Whether the fault has struck.</summary>
    public bool HasStruck { get; private set; }

    /// <summary>Whether the operation of that name took place.</summary>
    public bool Has(string point) => points.Contains(point);

    /// <summary>Arms the fault.</summary>
    public void Strike(string point, Fault fault) => struck = (point, fault);

    public override void CreateFolder(string path) => Do("make folder", path, () =>
        {
            if (Directory.Exists(path))
                return;
            base.CreateFolder(path);
            named.Add((Path.GetDirectoryName(path)!, new Made(path)));
        });

    public override FileOutput Create(string path, long length)
    {
        SafeFileHandle? file = null;
        Do("create", path, () =>
        {
            if (!File.Exists(path))
                named.Add((Path.GetDirectoryName(path)!, new Made(path)));
            file = File.OpenHandle(
                path,
                FileMode.Create,
                FileAccess.Write,
                FileShare.ReadWrite,
                preallocationSize: length
            );
            written.Add(path);
        });
        return new Output(this, path, file!);
    }

    public override void Rename(string from, string to) => Do("rename", from, () =>
        {
            byte[]? replaced = File.Exists(to) ? File.ReadAllBytes(to) : null;
            base.Rename(from, to);
            named =
            [
                .. named.Select(entry =>
                    (Moved(entry.Folder), entry.Name is Made made ? new Made(Moved(made.Path)) : entry.Name)
                ),
            ];
            named.Add((Path.GetDirectoryName(to)!, new Renamed(from, to, replaced)));
            string[] moved = [.. written.Select(Moved)];
            written.Clear();
            written.UnionWith(moved);

            string Moved(string path) =>
                path == from ? to
                : path.StartsWith(from + "/", StringComparison.Ordinal) ? to + path[from.Length..]
                : path;
        });

    public override void SyncFolder(string path) => Do("sync folder", path, () =>
        {
            Assert.True(Directory.Exists(path), $"{path} is synced and not there");
            named.RemoveAll(entry => entry.Folder == path);
        });

    public override void DeleteFile(string path) => Do("delete", path, () => base.DeleteFile(path));

    public override void DeleteFolder(string path) => Do("delete folder", path, () => base.DeleteFolder(path));

    public override long AvailableBytes(string folder)
    {
        long bytes = 0;
        Do("ask for space", folder, () => bytes = base.AvailableBytes(folder));
        return bytes;
    }

    // Makes the step of the save, or what the fault makes of it.
    private void Do(string operation, string path, Action action, Action? half = null)
    {
        lock (gate)
        {
            if (stopped)
                throw new StoppedException();
            string name = $"{operation} {Path.GetRelativePath(root, path)}";
            string point = $"{name} #{counts[name] = counts.GetValueOrDefault(name) + 1}";
            Fault? fault = struck is var (where, what) && where == point ? what : null;
            HasStruck |= fault is not null;
            switch (fault)
            {
                case Fault.Refuse:
                    throw new IOException($"No space left on device : '{path}'");
                case Fault.ShortWrite:
                    half!();
                    throw new IOException($"No space left on device : '{path}'");
                case Fault.StopWithin:
                    half!();
                    break;
                case null or Fault.StopAfter or Fault.PowerCut or Fault.PowerCutOfContents:
                    action();
                    points.Add(point);
                    break;
            }

            if (fault is Fault.PowerCut or Fault.PowerCutOfContents)
                CutPower(fault.Value);
            stopped = fault is not null;
        }

        if (stopped)
            throw new StoppedException();
    }

    private void CutPower(Fault fault)
    {
        foreach (string path in written.Where(File.Exists))
        {
            using FileStream file = new(path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
            long length = file.Length;
            file.SetLength(fault == Fault.PowerCut ? length / 2 : 0);
            if (fault == Fault.PowerCutOfContents)
                file.SetLength(length);
        }

        if (fault == Fault.PowerCutOfContents)
            return;
        foreach (var (_, name) in Enumerable.Reverse(named))
            Undo(name);
    }

    private static void Undo(Name name)
    {
        switch (name)
        {
            case Made made when File.Exists(made.Path):
                File.Delete(made.Path);
                break;
            case Made made when Directory.Exists(made.Path):
                Directory.Delete(made.Path, recursive: true);
                break;
            case Made:
                break;
            case Renamed { Replaced: { } replaced } renamed:
                File.Move(renamed.To, renamed.From);
                File.WriteAllBytes(renamed.To, replaced);
                break;
            case Renamed renamed when File.Exists(renamed.To):
                File.Move(renamed.To, renamed.From);
                break;
            case Renamed renamed when Directory.Exists(renamed.To):
                Directory.Move(renamed.To, renamed.From);
                break;
            case Renamed renamed:
                // Its files are deleted, and their folder has its old name again.
                Directory.CreateDirectory(renamed.From);
                break;
        }
    }

    private sealed class Output(FaultyFiles files, string path, SafeFileHandle file) : FileOutput
    {
        public override void Write(ReadOnlySpan<byte> bytes, long position)
        {
            byte[] copy = bytes.ToArray();
            files.Do(
                "write",
                path,
                () => RandomAccess.Write(file, copy, position),
                () => RandomAccess.Write(file, copy.AsSpan(0, copy.Length / 2), position)
            );
        }

        public override void SetLength(long length) =>
            files.Do("set length of", path, () => RandomAccess.SetLength(file, length));

        public override void Sync() => files.Do("sync", path, () => files.written.Remove(path));

        protected override void Dispose(bool disposing)
        {
            file.Dispose();
            base.Dispose(disposing);
        }
    }
}
