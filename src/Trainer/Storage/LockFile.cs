using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace LongNet.Trainer.Storage;

/// <summary>
/// A small file that is open to be locked. The lock (flock) belongs to this opening and ends with it, however the
/// process ends.
/// </summary>
/// <remarks>.NET's own streams lock what they open, so that a locked file could not be read.</remarks>
internal sealed partial class LockFile : IDisposable
{
    /// <summary>Another opening of the file has the lock: EWOULDBLOCK of flock.</summary>
    public const int IsLocked = 11;

    private const int NotFound = 2,
        Interrupted = 4,
        AlreadyThere = 17;

    private const int StatusBytes = 256;

    private const uint InodeMask = 0x100;

    // More than is ever written; what else may lie there is not read into memory.
    private const int MostBytes = 4096;

    private readonly SafeFileHandle handle;

    private LockFile(string path, SafeFileHandle handle) => (Path, this.handle) = (path, handle);

    public string Path { get; }

    /// <summary>Makes the file and opens it; null where there is one already, or no folder for it.</summary>
    public static LockFile? Create(string path)
    {
        const int ReadWrite = 2,
            Create = 0x40,
            Exclusive = 0x80;
        return OpenFile(path, ReadWrite | Create | Exclusive);
    }

    /// <summary>Opens the file; null where there is none.</summary>
    public static LockFile? Open(string path)
    {
        const int ReadWrite = 2;
        return OpenFile(path, ReadWrite);
    }

    /// <summary>
    /// The content of the file at a path now; null where there is none. It is opened again for that: a network's file
    /// system looks for changes then.
    /// </summary>
    public static byte[]? Read(string path)
    {
        const int ReadOnly = 0;
        using LockFile? file = OpenFile(path, ReadOnly);
        if (file is null)
            return null;
        var text = new byte[MostBytes];
        return text[..RandomAccess.Read(file.handle, text, 0)];
    }

    /// <summary>
    /// Whether an answer of <see cref="Lock"/> says that the file system has no locks: EOPNOTSUPP, ENOLCK, ENOSYS or
    /// EINVAL.
    /// </summary>
    public static bool IsUnsupported(int error) => error is 95 or 37 or 38 or 22;

    public static IOException Failure(string path, int error) =>
        new($"{path}: {Marshal.GetPInvokeErrorMessage(error)}.");

    /// <summary>Takes the lock without waiting for it.</summary>
    /// <returns>0, <see cref="IsLocked"/>, or what the file system answers that has no such locks.</returns>
    public int Lock()
    {
        const int ExclusiveWithoutWaiting = 2 | 4;
        int error;
        do error = Flock(handle, ExclusiveWithoutWaiting) == 0 ? 0 : Marshal.GetLastPInvokeError();
        while (error == Interrupted);
        return error;
    }

    /// <summary>
    /// Whether the path still names this file: it may have been removed, and another made, since it was opened.
    /// </summary>
    public bool IsAtPath()
    {
        // Bytes of a struct statx, which is laid out alike on all processors: the inode, and the device it is on.
        Range inode = 32..40,
            device = 136..144;
        Span<byte> own = stackalloc byte[StatusBytes],
            there = stackalloc byte[StatusBytes];
        const int OfDescriptor = 0x1000,
            FromTheServer = 0x2000,
            WorkingFolder = -100;
        return Found(StatusOf(handle, "", OfDescriptor, InodeMask, own))
            && Found(StatusAt(WorkingFolder, Path, FromTheServer, InodeMask, there))
            && own[inode].SequenceEqual(there[inode])
            && own[device].SequenceEqual(there[device]);
    }

    /// <summary>Replaces the text and brings it to the disk, or to the server, where other machines see it.</summary>
    public void Write(ReadOnlySpan<byte> text)
    {
        try
        {
            RandomAccess.Write(handle, text, 0);
            RandomAccess.SetLength(handle, text.Length);
            RandomAccess.FlushToDisk(handle);
        }
        catch (IOException error)
        {
            throw new IOException($"{Path}: {error.Message.TrimEnd('.')}.", error);
        }
    }

    public void Dispose() => handle.Dispose();

    private static LockFile? OpenFile(string path, int flags)
    {
        // A process that this one starts must not keep the lock.
        const int CloseOnExecute = 0x80000,
            ReadableByAll = 0b110_110_110;
        int descriptor = Open(path, flags | CloseOnExecute, ReadableByAll);
        if (descriptor >= 0)
            return new LockFile(path, new SafeFileHandle(descriptor, ownsHandle: true));
        int error = Marshal.GetLastPInvokeError();
        return error is NotFound or AlreadyThere ? null : throw Failure(path, error);
    }

    private bool Found(int result)
    {
        const int StaleHandle = 116;
        int error = Marshal.GetLastPInvokeError();
        return result == 0 || (error is NotFound or StaleHandle ? false : throw Failure(Path, error));
    }

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags, int mode);

    [LibraryImport("libc", EntryPoint = "flock", SetLastError = true)]
    private static partial int Flock(SafeFileHandle descriptor, int operation);

    [LibraryImport("libc", EntryPoint = "statx", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int StatusOf(
        SafeFileHandle descriptor,
        string path,
        int flags,
        uint mask,
        Span<byte> status
    );

    [LibraryImport("libc", EntryPoint = "statx", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int StatusAt(int folder, string path, int flags, uint mask, Span<byte> status);
}
