using System.Text;
using LongNet.Core.Serialization;
using LongNet.Trainer.Storage;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>
/// A checkpoint that is being written: a folder under another name, which gets the checkpoint's name only when it is
/// complete. Nothing is ever read from it under the other name. If the run stops before, the next run removes it.
/// </summary>
/// <param name="folder">The run's checkpoints folder.</param>
/// <param name="name">The checkpoint's name within it.</param>
/// <param name="files">All access to the disk.</param>
internal sealed class PartialCheckpoint(string folder, string name, FileOperations files)
{
    private readonly string final = System.IO.Path.Combine(folder, name);

    /// <summary>Where the files go.</summary>
    public string Path { get; } = System.IO.Path.Combine(folder, "." + name + ".partial");

    /// <summary>Makes the folder. Every rank that writes may call it.</summary>
    /// <param name="bytes">How much this rank will write; others may have reserved their space already.</param>
    /// <exception cref="IOException">There is not enough space, or a checkpoint of that name.</exception>
    public void Create(long bytes)
    {
        DurableFile.CreateFolder(folder, files);
        if (Directory.Exists(final))
            throw new IOException($"{final} is already there.");
        // A tenth more, for the metadata of files and for other programs that write to the disk meanwhile.
        if (files.AvailableBytes(folder) is var free && free < bytes + bytes / 10)
            throw new IOException($"It needs {Megabytes(bytes)} MB, and the disk has {Megabytes(free)} MB free.");
        files.CreateFolder(Path);

        static long Megabytes(long count) => (count + 999_999) / 1_000_000;
    }

    /// <summary>Writes and syncs a file of tensors.</summary>
    public CheckpointFile WriteTensors(
        string file,
        IEnumerable<(string Name, Tensor Value)> tensors,
        IReadOnlyDictionary<string, string>? metadata = null
    )
    {
        SafetensorsLayout layout = SafetensorsLayout.Of(
            [.. tensors.Select(entry => KeyValuePair.Create(entry.Name, entry.Value))],
            metadata
        );
        using var output = new HashedFileStream(files.Create(System.IO.Path.Combine(Path, file), layout.FileLength));
        layout.Write(output);
        return new CheckpointFile(file, layout.FileLength, output.Complete());
    }

    /// <summary>Brings the names of the files that this rank has written to the disk.</summary>
    public void Sync() => files.SyncFolder(Path);

    /// <summary>Size of a file that another process has written; null where it cannot be seen from here.</summary>
    public long? SizeOf(string file) =>
        new FileInfo(System.IO.Path.Combine(Path, file)) is { Exists: true } info ? info.Length : null;

    /// <summary>Gives the folder the checkpoint's name, now that all files are on the disk.</summary>
    /// <param name="manifest">With its files.</param>
    /// <returns>The checkpoint's folder.</returns>
    public string Complete(CheckpointManifest manifest)
    {
        DurableFile.WriteInPlace(
            System.IO.Path.Combine(Path, CheckpointManifest.FileName),
            Encoding.UTF8.GetBytes(manifest.ToJson()),
            files
        );
        files.SyncFolder(Path);
        files.Rename(Path, final);
        files.SyncFolder(folder);
        return final;
    }

    /// <summary>Removes what has been written, after a failure.</summary>
    public void Abandon()
    {
        try
        {
            if (Directory.Exists(Path))
                files.DeleteFolder(Path);
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            // The failure that led here is reported; the next run removes the folder.
        }
    }
}
