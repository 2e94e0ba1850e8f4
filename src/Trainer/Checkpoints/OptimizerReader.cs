using LongNet.Core;
using LongNet.Core.Serialization;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>
/// A checkpoint's optimizer state, however many files it lies in: complete tensors, read when asked for, so that no
/// rank needs memory for all of it.
/// </summary>
internal sealed class OptimizerReader : IDisposable
{
    private readonly List<SafetensorsReader> files = [];
    private readonly Dictionary<string, List<(SafetensorsReader File, long Start, long Length)>> slices = [];

    private OptimizerReader() { }

    /// <summary>Opens the files and sees that they are this model's.</summary>
    /// <param name="checkpoint">Its folder.</param>
    /// <param name="manifest">Verified.</param>
    /// <param name="expected">Exactly the tensors of the state, with their complete shapes.</param>
    /// <exception cref="UserException">A file cannot be read, or its tensors are another model's.</exception>
    public static OptimizerReader Open(
        string checkpoint,
        CheckpointManifest manifest,
        IReadOnlyList<(string Name, long[] Shape)> expected
    )
    {
        return Open(checkpoint, manifest, reader => reader.RequireModel(checkpoint, expected));
    }

    /// <summary>Opens the files, whatever the model, and sees that their slices make up complete tensors.</summary>
    /// <param name="checkpoint">Its folder.</param>
    /// <param name="manifest">Verified.</param>
    /// <exception cref="UserException">A file cannot be read, or a part of a tensor is missing.</exception>
    public static OptimizerReader Open(string checkpoint, CheckpointManifest manifest) =>
        Open(checkpoint, manifest, reader =>
        {
            foreach (string name in reader.slices.Keys)
            {
                if (
                    reader.UnbrokenLength(name) is null
                    || reader.slices[name].Select(slice => slice.File.Type(name)).Distinct().Count() > 1
                )
                    throw new UserException(
                        $"The optimizer state of {checkpoint} is not whole: its shards do not make up "
                            + $"{name}. Take another checkpoint."
                    );
            }
        });

    /// <summary>Names of the tensors, in the files' order.</summary>
    public IReadOnlyCollection<string> Names => slices.Keys;

    /// <summary>Elements of a complete tensor.</summary>
    public long Elements(string name) => slices[name].Sum(slice => slice.Length);

    public ScalarType Type(string name) => slices[name][0].File.Type(name);

    /// <summary>The complete tensor's shape; null where files hold parts of it, which do not say.</summary>
    public IReadOnlyList<long>? Shape(string name) =>
        slices[name] is [var (file, _, _)] && OptimizerShard.Start(file.Metadata, name) is null
            ? file.Shape(name)
            : null;

    /// <summary>Reads a complete tensor into one that exists.</summary>
    /// <param name="destination">Contiguous, of as many elements. Not disposed.</param>
    /// <exception cref="UserException">A file cannot be read.</exception>
    public void ReadInto(string name, Tensor destination)
    {
        using var scope = NewDisposeScope();
        Tensor flat = destination.view(-1);
        foreach (var (file, start, length) in slices[name])
            file.ReadInto(name, flat.narrow(0, start, length).view([.. file.Shape(name)]));
    }

    public void Dispose()
    {
        foreach (SafetensorsReader file in files)
            file.Dispose();
    }

    private void Add(SafetensorsReader file)
    {
        foreach (string name in file.Names)
        {
            if (!slices.TryGetValue(name, out var known))
                slices[name] = known = [];
            // What is not cut has no start.
            known.Add((file, OptimizerShard.Start(file.Metadata, name) ?? 0, Product(file.Shape(name))));
        }
    }

    private static OptimizerReader Open(string checkpoint, CheckpointManifest manifest, Action<OptimizerReader> check)
    {
        var reader = new OptimizerReader();
        try
        {
            foreach (string file in CheckpointStore.OptimizerFiles(manifest))
                reader.files.Add(CheckpointStore.OpenTensors(checkpoint, file));
            foreach (SafetensorsReader file in reader.files)
                reader.Add(file);
            check(reader);
            return reader;
        }
        catch
        {
            reader.Dispose();
            throw;
        }
    }

    private void RequireModel(string checkpoint, IReadOnlyList<(string Name, long[] Shape)> expected)
    {
        CheckpointStore.RequireNames(
            $"The optimizer state of {checkpoint}",
            [.. slices.Keys],
            [.. expected.Select(entry => entry.Name)]
        );
        foreach (var (name, shape) in expected)
        {
            foreach (var (part, _, _) in slices[name])
                CheckpointStore.RequireType(part, name, ScalarType.Float32);
            if (Shape(name) is not null)
                CheckpointStore.RequireShape(slices[name][0].File, name, shape, ScalarType.Float32);
            if (UnbrokenLength(name) != Product(shape))
            {
                throw new UserException(
                    $"The optimizer state of {checkpoint} belongs to another model: its shards do not make up "
                        + $"the {Product(shape)} elements of this model's {name}. "
                        + CheckpointStore.GiveItsModelKeys
                );
            }
        }
    }

    // Null where slices leave a hole or overlap. An empty one may lie where another begins or ends.
    private long? UnbrokenLength(string name)
    {
        long end = 0;
        foreach (var (_, start, length) in slices[name].OrderBy(slice => slice.Start).ThenBy(slice => slice.Length))
        {
            if (start != end)
                return null;
            end += length;
        }

        return end;
    }

    private static long Product(IEnumerable<long> shape) => shape.Aggregate(1L, (product, size) => product * size);
}
