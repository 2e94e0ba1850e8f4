using System.Globalization;
using System.Reflection;
using System.Security.Cryptography;
using System.Text;
using LongNet.Core;
using LongNet.Core.Serialization;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>
/// The checkpoints of a run: folders step-00000100 and a file LATEST that names the last whole one. One process touches
/// them; the others take what it read.
/// </summary>
/// <param name="folder">The run's checkpoints folder; made at the first save.</param>
public sealed class CheckpointStore(string folder)
{
    public const string LatestFile = "LATEST";
    public const string ModelFile = "model.safetensors";
    public const string OptimizerFile = "optimizer.safetensors";
    public const string ConfigFile = "config.yaml";

    private const string Prefix = "step-";

    /// <summary>This program's version, as manifests name it.</summary>
    public static string Software { get; } =
        typeof(CheckpointStore).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion ?? "unknown";

    public static string NameOf(long step) => string.Create(CultureInfo.InvariantCulture, $"{Prefix}{step:D8}");

    /// <summary>Steps of which there is a checkpoint, in ascending order.</summary>
    public IReadOnlyList<long> Steps() => !Directory.Exists(folder) ? [] :
        [.. Directory.GetDirectories(folder, Prefix + "*").Where(path => File.Exists(Path.Combine(path, CheckpointManifest.FileName)))
            .Select(path => long.TryParse(Path.GetFileName(path)[Prefix.Length..], NumberStyles.None, CultureInfo.InvariantCulture, out long step) ? step : -1)
            .Where(step => step >= 0).Order()];

    /// <summary>The checkpoint that LATEST names, or else the newest; null where there is none.</summary>
    /// <exception cref="UserException">LATEST names one that is not there.</exception>
    public string? Latest()
    {
        IReadOnlyList<long> steps = Steps();
        string pointer = Path.Combine(folder, LatestFile);
        if (!File.Exists(pointer))
            return steps.Count == 0 ? null : Path.Combine(folder, NameOf(steps[^1]));
        string name = File.ReadAllText(pointer).Trim();
        if (name.Length > 0 && name == Path.GetFileName(name) && File.Exists(Path.Combine(folder, name, CheckpointManifest.FileName)))
            return Path.Combine(folder, name);
        throw new UserException(
            $"{pointer} names \"{name}\", which is no checkpoint there. " + (steps.Count == 0
                ? "Remove the file to start anew."
                : $"Write one of the names {string.Join(", ", steps.Select(NameOf))} into it, or pass its folder with --resume."));
    }

    /// <summary>
    /// Writes a checkpoint into a folder of another name, syncs it, renames it, and points LATEST to it, in this order: whenever
    /// the machine stops, what LATEST names is whole.
    /// </summary>
    /// <param name="manifest">All but its files.</param>
    /// <param name="model">Parameters by name. Not disposed.</param>
    /// <param name="optimizer">Optimizer state by name. Not disposed.</param>
    /// <param name="config">The run's configuration, as YAML.</param>
    /// <returns>The checkpoint's folder.</returns>
    /// <exception cref="UserException">The disk refuses; older checkpoints are untouched.</exception>
    public string Save(
        CheckpointManifest manifest,
        IReadOnlyList<(string Name, Tensor Value)> model,
        IReadOnlyList<(string Name, Tensor Value)> optimizer,
        string config)
    {
        ArgumentNullException.ThrowIfNull(manifest);
        string name = NameOf(manifest.Step);
        string final = Path.Combine(folder, name), partial = Path.Combine(folder, "." + name + ".partial");
        try
        {
            DurableFile.CreateFolder(folder);
            if (Directory.Exists(final))
                throw new IOException($"{final} is already there.");
            if (Directory.Exists(partial))
                Directory.Delete(partial, recursive: true);
            Directory.CreateDirectory(partial);
            var files = new List<CheckpointFile> { WriteTensors(ModelFile, model), WriteTensors(OptimizerFile, optimizer), WriteText(ConfigFile, config) };
            DurableFile.Write(Path.Combine(partial, CheckpointManifest.FileName), (manifest with { Files = files }).ToJson());
            Directory.Move(partial, final);
            DurableFile.SyncFolder(folder);
            DurableFile.Write(Path.Combine(folder, LatestFile), name + "\n");
            return final;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or SafetensorsException)
        {
            throw new UserException(
                $"The checkpoint of step {manifest.Step} cannot be written to {folder}: {error.Message} " +
                "Older checkpoints are untouched: free space or mend permissions, then go on with --resume auto.", error);
        }

        CheckpointFile WriteTensors(string file, IReadOnlyList<(string Name, Tensor Value)> tensors)
        {
            using var digest = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            string path = Path.Combine(partial, file);
            SafetensorsWriter.Write(path, [.. tensors.Select(entry => KeyValuePair.Create(entry.Name, entry.Value))], hash: digest);
            return new CheckpointFile(file, new FileInfo(path).Length, Convert.ToHexStringLower(digest.GetHashAndReset()));
        }

        CheckpointFile WriteText(string file, string text)
        {
            DurableFile.Write(Path.Combine(partial, file), text);
            byte[] bytes = Encoding.UTF8.GetBytes(text);
            return new CheckpointFile(file, bytes.Length, Convert.ToHexStringLower(SHA256.HashData(bytes)));
        }
    }

    /// <summary>Reads a checkpoint's manifest and checks every file that it names, size and digest.</summary>
    /// <exception cref="UserException">It is not a checkpoint, not whole, or not of this program.</exception>
    public static CheckpointManifest Verify(string checkpoint)
    {
        CheckpointManifest manifest = CheckpointManifest.Read(checkpoint);
        foreach (string required in new[] { ModelFile, OptimizerFile, ConfigFile })
        {
            if (manifest.Files.All(file => file.Name != required))
                throw Damaged(required, "the manifest does not list it");
        }

        foreach (CheckpointFile file in manifest.Files)
        {
            string path = Path.Combine(checkpoint, file.Name);
            try
            {
                if (file.Name != Path.GetFileName(file.Name) || !File.Exists(path))
                    throw Damaged(file.Name, "it is missing");
                long bytes = new FileInfo(path).Length;
                if (bytes != file.Bytes)
                    throw Damaged(file.Name, $"it has {bytes} bytes, and {file.Bytes} were written");
                using FileStream content = File.OpenRead(path);
                if (Convert.ToHexStringLower(SHA256.HashData(content)) != file.Sha256)
                    throw Damaged(file.Name, "its content is not what was written (SHA-256 differs)");
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                throw Damaged(file.Name, $"it cannot be read: {error.Message}");
            }
        }

        return manifest;

        UserException Damaged(string file, string problem) =>
            new($"The checkpoint {checkpoint} is damaged: {file}: {problem}. Resume from another one with --resume PATH.");
    }

    /// <summary>Reads a file of tensors into tensors that exist.</summary>
    /// <param name="path">A safetensors file.</param>
    /// <param name="destinations">Exactly the names of the file; written in place. Not disposed.</param>
    /// <exception cref="UserException">Names, shapes or dtypes are another model's.</exception>
    public static void ReadInto(string path, IReadOnlyList<(string Name, Tensor Value)> destinations)
    {
        ArgumentNullException.ThrowIfNull(destinations);
        using SafetensorsReader reader = SafetensorsReader.Open(path);
        string[] missing = [.. destinations.Select(entry => entry.Name).Where(name => !reader.Contains(name))];
        string[] unexpected = [.. reader.Names.Except(destinations.Select(entry => entry.Name))];
        if (missing.Length + unexpected.Length > 0)
        {
            throw new UserException(
                $"{path} belongs to another model: " +
                string.Join(" and ", new[] { Few("it lacks", missing), Few("this model has no", unexpected) }.Where(text => text.Length > 0)) +
                ". Give the model.* keys that the checkpoint was made with (its config.yaml has them).");
        }

        foreach (var (name, _) in destinations)
        {
            long[] theirs = [.. reader.Shape(name)], ours = destinations.First(entry => entry.Name == name).Value.shape;
            if (!theirs.SequenceEqual(ours))
            {
                throw new UserException(
                    $"{path} belongs to another model: its {name} is [{string.Join(", ", theirs)}], and this model's is [{string.Join(", ", ours)}]. " +
                    "Give the model.* keys that the checkpoint was made with (its config.yaml has them).");
            }
        }

        foreach (var (name, value) in destinations)
            reader.ReadInto(name, value);

        static string Few(string what, string[] names) =>
            names.Length == 0 ? "" : $"{what} {names[0]}" + (names.Length == 1 ? "" : $" and {names.Length - 1} more");
    }
}
