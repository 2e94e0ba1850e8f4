using System.Runtime.InteropServices;
using System.Text;

namespace LongNet.Trainer.Checkpoints;

/// <summary>Writes that survive a power cut: the bytes reach the disk, and then the name does.</summary>
internal static partial class DurableFile
{
    /// <summary>Replaces a small file as a whole: readers see the old text or the new, never a part.</summary>
    public static void Write(string path, string text)
    {
        string partial = path + ".partial";
        using (var file = new FileStream(partial, FileMode.Create, FileAccess.Write, FileShare.None))
        {
            file.Write(Encoding.UTF8.GetBytes(text));
            file.Flush(flushToDisk: true);
        }

        File.Move(partial, path, overwrite: true);
        SyncFolder(Path.GetDirectoryName(Path.GetFullPath(path))!);
    }

    /// <summary>Makes a folder and those above it that are missing, and brings their names to the disk.</summary>
    public static void CreateFolder(string path)
    {
        var missing = new Stack<DirectoryInfo>();
        for (DirectoryInfo? folder = new(path); folder is { Exists: false }; folder = folder.Parent)
            missing.Push(folder);
        while (missing.TryPop(out DirectoryInfo? folder))
        {
            folder.Create();
            SyncFolder(folder.Parent!.FullName);
        }
    }

    /// <summary>Brings a folder's list of names to the disk. Does nothing where the system has no such call.</summary>
    public static void SyncFolder(string folder)
    {
        if (OperatingSystem.IsWindows())
            return;
        const int ReadOnly = 0;
        int descriptor = Open(folder, ReadOnly);
        if (descriptor < 0)
            throw new IOException($"The folder {folder} cannot be opened to be synced: error {Marshal.GetLastPInvokeError()}.");
        int result = Sync(descriptor);
        int error = Marshal.GetLastPInvokeError();
        _ = Close(descriptor);
        // Some network file systems answer EINVAL: they have nothing to sync.
        const int InvalidArgument = 22;
        if (result != 0 && error != InvalidArgument)
            throw new IOException($"The folder {folder} cannot be synced to the disk: error {error}.");
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "fsync", SetLastError = true)]
    private static partial int Sync(int descriptor);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int descriptor);
}
