using System.Globalization;
using LongNet.Core;
using LongNet.Core.Serialization;
using LongNet.Trainer.Runs;
using LongNet.Trainer.Storage;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>
/// The checkpoints of a run: folders step-00000100, a file LATEST that names the last one written and a file BEST that
/// names the one of the lowest validation loss.
/// </summary>
/// <param name="folder">The run's checkpoints folder; made at the first save.</param>
internal sealed class CheckpointStore(string folder)
{
    public const string LatestFile = "LATEST";
    public const string BestFile = "BEST";
    public const string ModelFile = "model.safetensors";

    internal const string GiveItsModelKeys =
        "Give the model.* keys that the checkpoint was made with (longnet checkpoint inspect shows them).";

    private const string Prefix = "step-",
        DamagedSuffix = ".damaged";

    public string Folder => folder;

    public static string NameOf(long step) => $"{Prefix}{step:D8}";

    /// <summary>The step in a checkpoint's name; null for any other name.</summary>
    public static long? StepOf(string name)
    {
        return
            name.StartsWith(Prefix, StringComparison.Ordinal)
            && long.TryParse(name.AsSpan(Prefix.Length), NumberStyles.None, CultureInfo.InvariantCulture, out long step)
            && name == NameOf(step)
            ? step
            : null;
    }

    /// <summary>Finds the checkpoint that a person means.</summary>
    /// <param name="path">Its folder, a run's folder, the checkpoints folder in it, or the file LATEST or BEST
    /// there.</param>
    /// <returns>The checkpoint's folder; null where there is none.</returns>
    /// <exception cref="UserException">LATEST or BEST names one that is not there.</exception>
    public static string? Find(string path)
    {
        if (IsFolderOfOne(path))
            return Directory.Exists(path) ? Path.TrimEndingDirectorySeparator(path) : null;
        if (IsPointer(path))
            return new CheckpointStore(Path.GetDirectoryName(path) is { Length: > 0 } parent ? parent : ".").Named(
                Path.GetFileName(path)
            );
        return new RunDirectory(path).Checkpoints().Latest() ?? new CheckpointStore(path).Latest();
    }

    /// <summary>Finds the checkpoints of the run that a person means.</summary>
    /// <param name="path">A run's folder, or the checkpoints folder in it.</param>
    /// <returns>Null where there are none, or where the path is that of one checkpoint.</returns>
    public static CheckpointStore? FindAll(string path)
    {
        return IsFolderOfOne(path) || IsPointer(path)
            ? null
            : new[] { new RunDirectory(path).Checkpoints(), new CheckpointStore(path) }.FirstOrDefault(store =>
                store.Steps().Count > 0
            );
    }

    public string PathOf(long step) => Path.Combine(folder, NameOf(step));

    /// <summary>Steps of which there is a checkpoint, damaged or not, in ascending order.</summary>
    public IReadOnlyList<long> Steps() =>
        !Directory.Exists(folder)
            ? []
            :
            [
                .. Directory
                    .GetDirectories(folder, Prefix + "*")
                    .Select(path => StepOf(Path.GetFileName(path)))
                    .OfType<long>()
                    .Order(),
            ];

    /// <summary>The checkpoint that LATEST names, or else the newest; null where there is none.</summary>
    /// <exception cref="UserException">LATEST names one that is not there.</exception>
    public string? Latest() => Named(LatestFile) ?? (Steps() is [.., var newest] ? PathOf(newest) : null);

    /// <summary>
    /// Of the checkpoints after whose step there was an evaluation, the step of the one with the lowest loss, the later
    /// of equals; null where there is none.
    /// </summary>
    public long? Best()
    {
        (long Step, double Loss)? best = null;
        foreach (long step in Steps())
        {
            try
            {
                if (
                    CheckpointManifest.Read(PathOf(step)).ValidationLoss is double loss
                    && double.IsFinite(loss)
                    && loss <= (best?.Loss ?? double.MaxValue)
                )
                    best = (step, loss);
            }
            catch (UserException)
            {
                // A damaged checkpoint is not a candidate.
            }
        }

        return best?.Step;
    }

    /// <summary>Reads a checkpoint's state.json and checks every file that it names, size and digest.</summary>
    /// <exception cref="DamagedCheckpointException">It is not what was written.</exception>
    /// <exception cref="UserException">It is not a checkpoint, or of another version of the program.</exception>
    public static CheckpointManifest Verify(string checkpoint)
    {
        CheckpointManifest manifest = CheckpointVerification.ReadManifest(checkpoint);
        CheckpointVerification.ThrowIfDamaged(checkpoint, CheckpointVerification.Of(checkpoint, manifest));
        return manifest;
    }

    /// <summary>The names of the files that hold a checkpoint's optimizer state.</summary>
    public static IEnumerable<string> OptimizerFiles(CheckpointManifest manifest)
    {
        return Enumerable
            .Range(0, manifest.OptimizerShards)
            .Select(shard => OptimizerShard.FileName(shard, manifest.OptimizerShards));
    }

    /// <summary>Reads a file of tensors into tensors that exist.</summary>
    /// <param name="path">A safetensors file.</param>
    /// <param name="destinations">Exactly the names of the file; written in place. Not disposed.</param>
    /// <exception cref="UserException">Names, shapes or dtypes are another model's.</exception>
    public static void ReadInto(string path, IReadOnlyList<(string Name, Tensor Value)> destinations)
    {
        using SafetensorsReader reader = OpenTensors(Path.GetDirectoryName(path)!, Path.GetFileName(path));
        RequireNames(reader.Path, [.. reader.Names], [.. destinations.Select(entry => entry.Name)]);
        foreach (var (name, value) in destinations)
            RequireShape(reader, name, value.shape, value.dtype);
        foreach (var (name, value) in destinations)
            reader.ReadInto(name, value);
    }

    /// <summary>Opens a file of tensors, and nothing that only has its name: no link, no pipe.</summary>
    /// <param name="checkpoint">The checkpoint's folder.</param>
    /// <param name="file">File name within it.</param>
    /// <returns>Owned by the caller.</returns>
    /// <exception cref="DamagedCheckpointException">It is no plain file.</exception>
    /// <exception cref="UserException">It cannot be read.</exception>
    internal static SafetensorsReader OpenTensors(string checkpoint, string file)
    {
        string path = Path.Combine(checkpoint, file);
        return PlainFile.ProblemOf(path) is { } problem
            ? throw new DamagedCheckpointException(checkpoint, file, problem)
            : SafetensorsReader.Open(path);
    }

    /// <summary>
    /// Removes what runs that were stopped while they wrote or deleted have left. Nobody may be writing.
    /// </summary>
    /// <returns>Whether there was anything.</returns>
    public bool RemoveLeftovers()
    {
        if (!Directory.Exists(folder))
            return false;
        string[] leftovers = Directory.GetDirectories(folder, "." + Prefix + "*");
        foreach (string path in leftovers)
            FileOperations.Real.DeleteFolder(path);
        foreach (string pointer in new[] { LatestFile, BestFile })
            FileOperations.Real.DeleteFile(DurableFile.PartialOf(Path.Combine(folder, pointer)));
        return leftovers.Length > 0;
    }

    /// <summary>Makes LATEST and BEST name what they should of the checkpoints that there are.</summary>
    /// <returns>The step of the best; null where none is known.</returns>
    internal long? Repoint(FileOperations files)
    {
        long? latest = Steps() is [.., var newest] ? newest : null,
            best = Best();
        foreach (var (pointer, step) in new[] { (LatestFile, latest), (BestFile, best) })
        {
            string path = Path.Combine(folder, pointer);
            if (step is not { } named)
            {
                if (File.Exists(path))
                    files.DeleteFile(path);
            }
            else if (!Points(pointer, named))
            {
                DurableFile.Write(path, NameOf(named) + "\n", files);
            }
        }

        return best;
    }

    /// <summary>Whether LATEST or BEST names the checkpoint of a step.</summary>
    internal bool Points(string pointer, long step)
    {
        try
        {
            return TextOf(Path.Combine(folder, pointer)) == NameOf(step);
        }
        catch (UserException)
        {
            return false;
        }
    }

    /// <summary>Gives a checkpoint that is damaged another name, so that its step can be written again.</summary>
    /// <returns>The new name.</returns>
    public string SetAside(long step)
    {
        string name = NameOf(step) + DamagedSuffix;
        for (int again = 2; Directory.Exists(Path.Combine(folder, name)); again++)
            name = $"{NameOf(step)}{DamagedSuffix}-{again}";
        FileOperations.Real.Rename(PathOf(step), Path.Combine(folder, name));
        FileOperations.Real.SyncFolder(folder);
        return name;
    }

    /// <summary>Text of a file as messages show it: no longer than a line, without control characters.</summary>
    internal static string Shown(string text) =>
        string.Concat(
            (text.Length > 80 ? text[..80] + "…" : text).Select(character =>
                char.IsControl(character) ? '?' : character
            )
        );

    /// <exception cref="UserException">The tensor is not of the shape or the type expected.</exception>
    internal static void RequireShape(SafetensorsReader reader, string name, IReadOnlyList<long> shape, ScalarType type)
    {
        RequireType(reader, name, type);
        if (!reader.Shape(name).SequenceEqual(shape))
        {
            throw new UserException(
                $"{reader.Path} belongs to another model: its {name} is "
                    + $"[{string.Join(", ", reader.Shape(name))}], and this model's is "
                    + $"[{string.Join(", ", shape)}]. "
                    + GiveItsModelKeys
            );
        }
    }

    /// <exception cref="UserException">The tensor is not of the type expected.</exception>
    internal static void RequireType(SafetensorsReader reader, string name, ScalarType type)
    {
        if (reader.Type(name) != type)
        {
            throw new UserException(
                $"{reader.Path} belongs to another model: its {name} is of type {reader.Type(name)}, and this "
                    + $"model's of type {type}. "
                    + GiveItsModelKeys
            );
        }
    }

    /// <exception cref="UserException">The names are not those expected.</exception>
    internal static void RequireNames(
        string source,
        IReadOnlyCollection<string> names,
        IReadOnlyCollection<string> expected
    )
    {
        string[] missing = [.. expected.Except(names)],
            unexpected = [.. names.Except(expected)];
        if (missing.Length + unexpected.Length > 0)
        {
            throw new UserException(
                $"{source} belongs to another model: "
                    + string.Join(
                        " and ",
                        new[] { Few("it lacks", missing), Few("this model has no", unexpected) }.Where(text =>
                            text.Length > 0
                        )
                    )
                    + ". "
                    + GiveItsModelKeys
            );
        }

        static string Few(string what, string[] names) =>
            names.Length == 0
                ? ""
                : $"{what} {Shown(names[0])}" + (names.Length == 1 ? "" : $" and {names.Length - 1} more");
    }

    private static bool IsFolderOfOne(string path) =>
        File.Exists(Path.Combine(path, CheckpointManifest.FileName))
        || StepOf(Path.GetFileName(Path.TrimEndingDirectorySeparator(path))) is not null;

    private static bool IsPointer(string path) => Path.GetFileName(path) is LatestFile or BestFile;

    // The text of LATEST or BEST.
    private static string TextOf(string path)
    {
        try
        {
            if (PlainFile.ProblemOf(path) is { } problem)
                throw new UserException($"{path} cannot be read: {problem}.");
            using var reader = new StreamReader(path);
            // A name is short, whatever lies there.
            var text = new char[256];
            return new string(text, 0, reader.ReadBlock(text)).Trim();
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw new UserException($"{path} cannot be read: {error.Message}");
        }
    }

    // The folder that LATEST or BEST names; null where the file is missing.
    private string? Named(string pointer)
    {
        string path = Path.Combine(folder, pointer);
        if (!File.Exists(path))
            return null;
        string name = TextOf(path);
        if (StepOf(name) is not null && Directory.Exists(Path.Combine(folder, name)))
            return Path.Combine(folder, name);
        IReadOnlyList<long> steps = Steps();
        throw new UserException(
            $"{path} names \"{Shown(name)}\", which is no checkpoint there. "
                + (
                    steps.Count == 0
                        ? "Remove the file to start anew."
                        : $"Name the folder of one that is: {string.Join(", ", steps.Select(NameOf))}."
                )
        );
    }
}
