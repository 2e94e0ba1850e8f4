using System.Buffers.Binary;
using System.Globalization;
using System.Reflection;
using System.Security.Cryptography;
using LongNet.Core;
using LongNet.Core.Serialization;
using LongNet.Distributed;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>
/// The checkpoints of a run: folders step-00000100 and a file LATEST that names the last whole one. One process touches
/// them, and the others take what it read; where the optimizer is sharded, every rank writes its own shard.
/// </summary>
/// <param name="folder">The run's checkpoints folder; made at the first save.</param>
public sealed class CheckpointStore(string folder)
{
    public const string LatestFile = "LATEST";
    public const string ModelFile = "model.safetensors";
    public const string OptimizerFile = "optimizer.safetensors";
    public const string ConfigFile = "config.yaml";

    internal const string GiveItsModelKeys = "Give the model.* keys that the checkpoint was made with (its config.yaml has them).";

    private const string Prefix = "step-";

    /// <summary>Called on every rank that writes, after each file of tensors.</summary>
    public Action? FileWritten { get; set; }

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
        return Writing(manifest.Step, () =>
        {
            var partial = new PartialCheckpoint(folder, NameOf(manifest.Step), FileWritten);
            partial.Create();
            return partial.Complete(manifest with
            {
                Files = [partial.WriteTensors(ModelFile, model), partial.WriteTensors(OptimizerFile, optimizer), partial.WriteText(ConfigFile, config)],
            });
        });
    }

    /// <summary>
    /// As <see cref="Save"/>, with the optimizer state in one file per rank, which that rank writes. The folder must lie on a file
    /// system that all ranks share. Collective.
    /// </summary>
    /// <param name="group">The ranks that hold the state.</param>
    /// <param name="manifest">All but its files.</param>
    /// <param name="model">Parameters by name; read on rank 0 alone. Not disposed.</param>
    /// <param name="whole">Optimizer state that all ranks have alike, such as the step count; read on rank 0 alone. Not disposed.</param>
    /// <param name="slices">This rank's part of the rest. Not disposed.</param>
    /// <param name="config">The run's configuration, as YAML.</param>
    /// <returns>The checkpoint's folder; empty on other ranks than 0.</returns>
    /// <exception cref="UnanimousException">A rank's disk refuses, or ranks do not see the same folder; older checkpoints are untouched.</exception>
    public string SaveSharded(
        ProcessGroup group,
        CheckpointManifest manifest,
        IReadOnlyList<(string Name, Tensor Value)> model,
        IReadOnlyList<(string Name, Tensor Value)> whole,
        IReadOnlyList<StateSlice> slices,
        string config)
    {
        ArgumentNullException.ThrowIfNull(group);
        ArgumentNullException.ThrowIfNull(manifest);
        ArgumentNullException.ThrowIfNull(slices);
        var partial = new PartialCheckpoint(folder, NameOf(manifest.Step), FileWritten);
        RankAgreement.RunOnRoot(group, () => Writing(manifest.Step, () =>
        {
            partial.Create();
            return true;
        }));

        bool isRoot = group.Rank == 0;
        CheckpointFile[] own = RankAgreement.Run(group, () => Writing(manifest.Step, () =>
        {
            if (!Directory.Exists(partial.Path))
                throw NotShared(manifest.Step, $"{partial.Path}, which rank 0 has made, is not to be seen from here");
            CheckpointFile shard = partial.WriteTensors(
                OptimizerShard.FileName(group.Rank, group.Size),
                (isRoot ? whole : []).Concat(slices.Select(slice => (slice.Name, slice.Value))),
                OptimizerShard.Metadata(slices));
            return isRoot ? [shard, partial.WriteTensors(ModelFile, model), partial.WriteText(ConfigFile, config)] : new[] { shard };
        }));

        CheckpointFile[] shards = Exchange(group, own[0]);
        return RankAgreement.RunOnRoot(group, () => Writing(manifest.Step, () =>
        {
            for (int rank = 0; rank < shards.Length; rank++)
            {
                if (partial.SizeOf(shards[rank].Name) is not { } bytes || bytes != shards[rank].Bytes)
                    throw NotShared(manifest.Step, $"{shards[rank].Name}, which rank {rank} has written, is not to be seen by rank 0 in {partial.Path}");
            }

            return partial.Complete(manifest with { OptimizerShards = group.Size, Files = [own[1], .. shards, own[2]] });
        })) ?? "";
    }

    /// <summary>Reads a checkpoint's manifest and checks every file that it names, size and digest.</summary>
    /// <exception cref="UserException">It is not a checkpoint, not whole, or not of this program.</exception>
    public static CheckpointManifest Verify(string checkpoint)
    {
        CheckpointManifest manifest = CheckpointManifest.Read(checkpoint);
        foreach (string required in OptimizerFiles(manifest).Prepend(ModelFile).Append(ConfigFile))
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

    /// <summary>The names of the files that hold a checkpoint's optimizer state.</summary>
    public static IEnumerable<string> OptimizerFiles(CheckpointManifest manifest)
    {
        ArgumentNullException.ThrowIfNull(manifest);
        return manifest.OptimizerShards is { } shards
            ? Enumerable.Range(0, shards).Select(shard => OptimizerShard.FileName(shard, shards))
            : [OptimizerFile];
    }

    /// <summary>Reads a file of tensors into tensors that exist.</summary>
    /// <param name="path">A safetensors file.</param>
    /// <param name="destinations">Exactly the names of the file; written in place. Not disposed.</param>
    /// <exception cref="UserException">Names, shapes or dtypes are another model's.</exception>
    public static void ReadInto(string path, IReadOnlyList<(string Name, Tensor Value)> destinations)
    {
        ArgumentNullException.ThrowIfNull(destinations);
        using SafetensorsReader reader = SafetensorsReader.Open(path);
        RequireTensors(reader, [.. destinations.Select(entry => (entry.Name, entry.Value.shape))]);
        foreach (var (name, value) in destinations)
            reader.ReadInto(name, value);
    }

    /// <exception cref="UserException">The file's names or shapes are not those expected.</exception>
    internal static void RequireTensors(SafetensorsReader reader, IReadOnlyList<(string Name, long[] Shape)> expected)
    {
        RequireNames(reader.Path, reader.Names, [.. expected.Select(entry => entry.Name)]);
        foreach (var (name, shape) in expected)
        {
            if (!reader.Shape(name).SequenceEqual(shape))
            {
                throw new UserException(
                    $"{reader.Path} belongs to another model: its {name} is [{string.Join(", ", reader.Shape(name))}], and this model's is [{string.Join(", ", shape)}]. " +
                    GiveItsModelKeys);
            }
        }
    }

    /// <exception cref="UserException">The names are not those expected.</exception>
    internal static void RequireNames(string source, IReadOnlyCollection<string> names, IReadOnlyCollection<string> expected)
    {
        string[] missing = [.. expected.Except(names)], unexpected = [.. names.Except(expected)];
        if (missing.Length + unexpected.Length > 0)
        {
            throw new UserException(
                $"{source} belongs to another model: " +
                string.Join(" and ", new[] { Few("it lacks", missing), Few("this model has no", unexpected) }.Where(text => text.Length > 0)) +
                ". " + GiveItsModelKeys);
        }

        static string Few(string what, string[] names) =>
            names.Length == 0 ? "" : $"{what} {names[0]}" + (names.Length == 1 ? "" : $" and {names.Length - 1} more");
    }

    private T Writing<T>(long step, Func<T> write)
    {
        try
        {
            return write();
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException or SafetensorsException)
        {
            throw new UserException(
                $"The checkpoint of step {step} cannot be written to {folder}: {error.Message} " +
                "Older checkpoints are untouched: free space or mend permissions, then go on with --resume auto.", error);
        }
    }

    private static UserException NotShared(long step, string what) => new(
        $"The checkpoint of step {step} cannot be written: {what}. The run directory must lie on a file system that all ranks share " +
        "when parallel.shard_optimizer is on. Older checkpoints are untouched.");

    // Size and digest of every rank's shard.
    private static CheckpointFile[] Exchange(ProcessGroup group, CheckpointFile own)
    {
        var bytes = new byte[sizeof(long) + SHA256.HashSizeInBytes];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, own.Bytes);
        Convert.FromHexString(own.Sha256).CopyTo(bytes, sizeof(long));
        return [.. RankAgreement.AllGather(group, bytes).Chunk(bytes.Length).Select((shard, rank) => new CheckpointFile(
            OptimizerShard.FileName(rank, group.Size),
            BinaryPrimitives.ReadInt64LittleEndian(shard),
            Convert.ToHexStringLower(shard.AsSpan(sizeof(long)))))];
    }
}
