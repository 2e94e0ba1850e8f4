using System.Text;

namespace LongNet.Trainer.Storage;

/// <summary>Writes that survive a power cut: the bytes reach the disk, and then the name does.</summary>
internal static class DurableFile
{
    /// <summary>Replaces a small file atomically: readers see the old text or the new, never a part.</summary>
    public static void Write(string path, string text, FileOperations? operations = null)
    {
        FileOperations files = operations ?? FileOperations.Real;
        string partial = PartialOf(path);
        try
        {
            WriteInPlace(partial, Encoding.UTF8.GetBytes(text), files);
            files.Rename(partial, path);
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            DeleteQuietly(partial, files);
            throw;
        }

        files.SyncFolder(Path.GetDirectoryName(Path.GetFullPath(path))!);
    }

    /// <summary>Where a file is written before it takes its name.</summary>
    public static string PartialOf(string path) => path + ".partial";

    /// <summary>Writes a file under its own name and syncs it. Nobody may look for it there yet.</summary>
    /// <returns>SHA-256 of the bytes, lower-case hexadecimal.</returns>
    public static string WriteInPlace(string path, ReadOnlySpan<byte> bytes, FileOperations files)
    {
        using var output = new HashedFileStream(files.Create(path, bytes.Length));
        output.Write(bytes);
        return output.Complete();
    }

    /// <summary>Makes a folder and those above it that are missing, and brings their names to the disk.</summary>
    /// <returns>Those that were missing, the outermost first.</returns>
    public static IReadOnlyList<string> CreateFolder(string path, FileOperations? operations = null)
    {
        FileOperations files = operations ?? FileOperations.Real;
        var missing = new Stack<DirectoryInfo>();
        for (DirectoryInfo? folder = new(path); folder is { Exists: false }; folder = folder.Parent)
            missing.Push(folder);
        foreach (DirectoryInfo folder in missing)
        {
            files.CreateFolder(folder.FullName);
            files.SyncFolder(folder.Parent!.FullName);
        }

        return [.. missing.Select(folder => folder.FullName)];
    }

    private static void DeleteQuietly(string path, FileOperations files)
    {
        try
        {
            files.DeleteFile(path);
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            // The failure that led here is the one to report.
        }
    }
}
