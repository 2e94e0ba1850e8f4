using LongNet.Core;

namespace LongNet.Trainer.Data;

/// <summary>Files that a run reads through memory maps.</summary>
internal static class MappedFiles
{
    /// <summary>
    /// Checks that a file still has its size. Reading the map of a file that has become shorter kills the process with
    /// SIGBUS, so this is called before every read.
    /// </summary>
    /// <param name="path">The file.</param>
    /// <param name="bytes">Its size when the run started.</param>
    /// <param name="what">What the message calls it: "text" or "file".</param>
    /// <exception cref="UserException">The file is gone, or has another size.</exception>
    public static void ThrowIfResized(string path, long bytes, string what)
    {
        var file = new FileInfo(path);
        if (file.Exists && file.Length == bytes)
            return;
        string change = file.Exists ? $"has {file.Length} bytes now, and had {bytes}" : "is gone, and was there";
        throw new UserException(
            $"{file.FullName} {change} when the run started: leave the {what} alone while a run reads it, and go on "
                + "from the last checkpoint with --resume auto."
        );
    }
}
