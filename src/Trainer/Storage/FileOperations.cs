using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace LongNet.Trainer.Storage;

/// <summary>
/// Every way in which a checkpoint touches the disk. All of them pass through here, so that a test can make each of
/// them fail, or stop the program before or after it.
/// </summary>
internal partial class FileOperations
{
    /// <summary>The file system as it is.</summary>
    public static FileOperations Real { get; } = new();

    /// <summary>Makes a folder; one that is there already stays as it is. Those above it must exist.</summary>
    public virtual void CreateFolder(string path) => Directory.CreateDirectory(path);

    /// <summary>Opens a file to be written from its beginning, in place of one that is there.</summary>
    /// <param name="path">The file.</param>
    /// <param name="length">Its size when it is complete: taken from the disk at once where the file system
    /// can.</param>
    /// <exception cref="IOException">The disk refuses, or has not as much space.</exception>
    public virtual FileOutput Create(string path, long length) => new(path, length);

    /// <summary>
    /// Gives a file another name, in place of a file that has it, or a folder another name that nothing has.
    /// </summary>
    public virtual void Rename(string from, string to)
    {
        if (Directory.Exists(from))
            Directory.Move(from, to);
        else
            File.Move(from, to, overwrite: true);
    }

    /// <summary>Brings a folder's list of names to the disk. Does nothing where the system has no such call.</summary>
    public virtual void SyncFolder(string path)
    {
        if (OperatingSystem.IsWindows())
            return;
        using SafeFileHandle folder = Open(path, 0, 0);
        if (folder.IsInvalid)
            throw new IOException(
                $"The folder {path} cannot be opened to be synced: {Marshal.GetLastPInvokeErrorMessage()}."
            );
        // Some network file systems answer EINVAL: they have nothing to sync.
        const int InvalidArgument = 22;
        if (Sync(folder) != 0 && Marshal.GetLastPInvokeError() != InvalidArgument)
            throw new IOException(
                $"The folder {path} cannot be synced to the disk: {Marshal.GetLastPInvokeErrorMessage()}."
            );
    }

    public virtual void DeleteFile(string path) => File.Delete(path);

    /// <summary>Removes a folder with all that is in it.</summary>
    public virtual void DeleteFolder(string path) => Directory.Delete(path, recursive: true);

    /// <summary>Bytes that this user may still write to the file system of a folder.</summary>
    public virtual long AvailableBytes(string folder) => new DriveInfo(Path.GetFullPath(folder)).AvailableFreeSpace;

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial SafeFileHandle Open(string path, int flags, int mode);

    [LibraryImport("libc", EntryPoint = "fsync", SetLastError = true)]
    private static partial int Sync(SafeFileHandle file);
}
