using System.Buffers.Binary;
using System.Runtime.InteropServices;
using LongNet.Core;

namespace LongNet.Trainer.Storage;

/// <summary>
/// What is ever opened of a checkpoint: plain files that lie where they are looked for. A symbolic link leads out of
/// the checkpoint, and a pipe or a device may never answer.
/// </summary>
internal static partial class PlainFile
{
    // EIO.
    private const int DeviceError = 5;

    /// <summary>Looks at a file without opening it.</summary>
    /// <returns>What is wrong with it, as in "it is missing"; null for a plain file.</returns>
    public static string? ProblemOf(string path)
    {
        if (new FileInfo(path).LinkTarget is not null)
            return "it is a symbolic link, and only files of the checkpoint's own are read";
        if (!File.Exists(path))
            return Directory.Exists(path) ? "it is a folder" : "it is missing";
        return IsPlain(path) ? null : "it is no plain file";
    }

    /// <summary>
    /// Whether an error says that a file's content is lost: it is gone, or the disk fails to read it.
    /// </summary>
    public static bool IsDamage(Exception error) =>
        error is FileNotFoundException or EndOfStreamException
        || (error is IOException && error.HResult == DeviceError);

    /// <summary>
    /// Whether an error is another one of the file system's: permissions, too many open files, a server that does not
    /// answer.
    /// </summary>
    public static bool IsPassing(Exception error) => DiskError.Is(error) && !IsDamage(error);

    /// <summary>The error to report then. A checkpoint that may be complete must not be set aside for it.</summary>
    public static UserException Unreadable(string path, Exception error) =>
        new(
            $"{path} cannot be read: {error.Message.TrimEnd('.')}. Mend that, or name another checkpoint "
                + "with --resume PATH.",
            error
        );

    private static bool IsPlain(string path)
    {
        if (!OperatingSystem.IsLinux())
            return true;
        // Its structure, unlike that of stat, is the same on every processor.
        const int Bytes = 256,
            ModeOffset = 28,
            CurrentFolder = -100,
            DoNotFollow = 0x100,
            KindBits = 0xF000,
            Plain = 0x8000;
        const uint Kind = 1;
        Span<byte> status = stackalloc byte[Bytes];
        return Status(CurrentFolder, path, DoNotFollow, Kind, status) != 0
            || (BinaryPrimitives.ReadUInt16LittleEndian(status[ModeOffset..]) & KindBits) == Plain;
    }

    [LibraryImport("libc", EntryPoint = "statx", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Status(int folder, string path, int flags, uint mask, Span<byte> status);
}
