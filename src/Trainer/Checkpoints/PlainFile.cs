using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace LongNet.Trainer.Checkpoints;

/// <summary>
/// What is ever opened of a checkpoint: plain files that lie where they are looked for. A symbolic link leads out of the checkpoint, and
/// a pipe or a device may never answer.
/// </summary>
internal static partial class PlainFile
{
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

    private static bool IsPlain(string path)
    {
        if (!OperatingSystem.IsLinux())
            return true;
        // Its structure, unlike that of stat, is the same on every processor.
        const int Bytes = 256, ModeOffset = 28, CurrentFolder = -100, DoNotFollow = 0x100, KindBits = 0xF000, Plain = 0x8000;
        const uint Kind = 1;
        Span<byte> status = stackalloc byte[Bytes];
        return Status(CurrentFolder, path, DoNotFollow, Kind, status) != 0 || (BinaryPrimitives.ReadUInt16LittleEndian(status[ModeOffset..]) & KindBits) == Plain;
    }

    [LibraryImport("libc", EntryPoint = "statx", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Status(int folder, string path, int flags, uint mask, Span<byte> status);
}
