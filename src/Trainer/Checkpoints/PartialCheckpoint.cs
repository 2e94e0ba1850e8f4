using System.Security.Cryptography;
using System.Text;
using LongNet.Core.Serialization;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>A checkpoint that is being written: a folder of another name, which takes its own only when it is whole.</summary>
/// <param name="folder">The run's checkpoints folder.</param>
/// <param name="name">The checkpoint's name within it.</param>
/// <param name="fileWritten">Called after each file of tensors.</param>
internal sealed class PartialCheckpoint(string folder, string name, Action? fileWritten = null)
{
    private readonly string final = System.IO.Path.Combine(folder, name);

    /// <summary>Where the files go.</summary>
    public string Path { get; } = System.IO.Path.Combine(folder, "." + name + ".partial");

    /// <summary>Makes the folder, in place of one that a run which was stopped has left.</summary>
    public void Create()
    {
        DurableFile.CreateFolder(folder);
        if (Directory.Exists(final))
            throw new IOException($"{final} is already there.");
        if (Directory.Exists(Path))
            Directory.Delete(Path, recursive: true);
        Directory.CreateDirectory(Path);
    }

    /// <summary>Writes and syncs a file of tensors.</summary>
    public CheckpointFile WriteTensors(
        string file, IEnumerable<(string Name, Tensor Value)> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        using var digest = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        string path = System.IO.Path.Combine(Path, file);
        SafetensorsWriter.Write(path, [.. tensors.Select(entry => KeyValuePair.Create(entry.Name, entry.Value))], metadata, digest);
        DurableFile.SyncFolder(Path);
        fileWritten?.Invoke();
        return new CheckpointFile(file, new FileInfo(path).Length, Convert.ToHexStringLower(digest.GetHashAndReset()));
    }

    /// <summary>Writes and syncs a small file.</summary>
    public CheckpointFile WriteText(string file, string text)
    {
        DurableFile.Write(System.IO.Path.Combine(Path, file), text);
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        return new CheckpointFile(file, bytes.Length, Convert.ToHexStringLower(SHA256.HashData(bytes)));
    }

    /// <summary>Size of a file that another process has written; null where it cannot be seen from here.</summary>
    public long? SizeOf(string file) => new FileInfo(System.IO.Path.Combine(Path, file)) is { Exists: true } found ? found.Length : null;

    /// <summary>Gives the folder its name and points LATEST to it, now that all files are on the disk.</summary>
    /// <param name="manifest">With its files.</param>
    /// <returns>The checkpoint's folder.</returns>
    public string Complete(CheckpointManifest manifest)
    {
        DurableFile.Write(System.IO.Path.Combine(Path, CheckpointManifest.FileName), manifest.ToJson());
        Directory.Move(Path, final);
        DurableFile.SyncFolder(folder);
        DurableFile.Write(System.IO.Path.Combine(folder, CheckpointStore.LatestFile), name + "\n");
        return final;
    }
}
