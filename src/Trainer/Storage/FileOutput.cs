using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace LongNet.Trainer.Storage;

/// <summary>
/// A file that is being written, past the system's cache where that goes: bytes move to the disk while more of them are
/// made, and what the system has cached of the text stays cached.
/// </summary>
internal partial class FileOutput : IDisposable
{
    /// <summary>Addresses, places and lengths of writes past the cache are multiples of this.</summary>
    public const int Alignment = 4096;

    private const int InvalidArgument = 22;

    private readonly string path;
    private SafeFileHandle file;
    private bool isDirect;

    /// <param name="path">The file; one that is there is emptied.</param>
    /// <param name="length">Its size when it is complete.</param>
    public FileOutput(string path, long length)
    {
        this.path = path;
        SafeFileHandle? direct = OpenDirect(path);
        isDirect = direct is not null;
        file = direct ?? File.OpenHandle(path, FileMode.Create, FileAccess.Write);
        try
        {
            Reserve(length);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>For a test's output that does something else.</summary>
    protected FileOutput()
    {
        path = "";
        file = new SafeFileHandle();
    }

    /// <summary>Writes bytes at a place.</summary>
    /// <param name="bytes">Aligned, as many as a multiple of <see cref="Alignment"/>.</param>
    /// <param name="position">Where in the file: a multiple of <see cref="Alignment"/>.</param>
    public virtual void Write(ReadOnlySpan<byte> bytes, long position)
    {
        try
        {
            RandomAccess.Write(file, bytes, position);
        }
        catch (IOException refused) when (isDirect && refused.HResult == InvalidArgument)
        {
            // Some file systems open a file so and then do not write it.
            file.Dispose();
            file = File.OpenHandle(path, FileMode.Open, FileAccess.Write);
            isDirect = false;
            RandomAccess.Write(file, bytes, position);
        }
    }

    /// <summary>Sets the file's size.</summary>
    public virtual void SetLength(long length) => RandomAccess.SetLength(file, length);

    /// <summary>Returns when all bytes are on the disk.</summary>
    public virtual void Sync() => RandomAccess.FlushToDisk(file);

    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    protected virtual void Dispose(bool disposing) => file.Dispose();

    // Null where the system or the file system has no such way.
    private static SafeFileHandle? OpenDirect(string path)
    {
        // Linux numbers its flags differently on other processors.
        if (!OperatingSystem.IsLinux() || RuntimeInformation.ProcessArchitecture != Architecture.X64)
            return null;
        const int WriteOnly = 1,
            Create = 0x40,
            Truncate = 0x200,
            Direct = 0x4000,
            CloseOnExec = 0x80000,
            ReadableByAll = 0b110_110_110;
        SafeFileHandle file = FileOperations.Open(
            path,
            WriteOnly | Create | Truncate | Direct | CloseOnExec,
            ReadableByAll
        );
        if (!file.IsInvalid)
            return file;
        file.Dispose();
        return null;
    }

    // A full disk is noticed before anything is written.
    private void Reserve(long length)
    {
        if (!OperatingSystem.IsLinux() || length == 0)
            return;
        const int NoSpace = 28,
            TooLarge = 27,
            QuotaExceeded = 122;
        // The system's call itself: where the file system has none, the C library writes a byte into every page
        // instead.
        int error = Allocate(file, 0, 0, length) == 0 ? 0 : Marshal.GetLastPInvokeError();
        if (error is NoSpace or TooLarge or QuotaExceeded)
            throw new IOException($"{Marshal.GetPInvokeErrorMessage(error)}: {path} needs {length} bytes.");
    }

    [LibraryImport("libc", EntryPoint = "fallocate", SetLastError = true)]
    private static partial int Allocate(SafeFileHandle file, int mode, long offset, long length);
}
