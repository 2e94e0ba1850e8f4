using LongNet.Core;
using LongNet.Core.Serialization;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>
/// A checkpoint's optimizer state, however many files it lies in: whole tensors, read when asked for, so that nobody needs memory for
/// all of it.
/// </summary>
public sealed class OptimizerReader : IDisposable
{
    private readonly List<SafetensorsReader> files = [];
    private readonly Dictionary<string, List<(SafetensorsReader File, long Start, long Length)>> slices = [];

    private OptimizerReader()
    {
    }

    /// <summary>Opens the files and sees that they are this model's.</summary>
    /// <param name="checkpoint">Its folder.</param>
    /// <param name="manifest">Verified.</param>
    /// <param name="expected">Exactly the tensors of the state, with their whole shapes.</param>
    /// <exception cref="UserException">A file cannot be read, or its tensors are another model's.</exception>
    public static OptimizerReader Open(string checkpoint, CheckpointManifest manifest, IReadOnlyList<(string Name, long[] Shape)> expected)
    {
        ArgumentNullException.ThrowIfNull(manifest);
        ArgumentNullException.ThrowIfNull(expected);
        var reader = new OptimizerReader();
        try
        {
            foreach (string file in CheckpointStore.OptimizerFiles(manifest))
                reader.files.Add(SafetensorsReader.Open(Path.Combine(checkpoint, file)));
            foreach (SafetensorsReader file in reader.files)
                reader.Add(file);
            reader.RequireWhole(checkpoint, expected);
            return reader;
        }
        catch
        {
            reader.Dispose();
            throw;
        }
    }

    /// <summary>Reads a whole tensor into one that exists.</summary>
    /// <param name="destination">Contiguous, of as many elements. Not disposed.</param>
    /// <exception cref="UserException">A file cannot be read.</exception>
    public void ReadInto(string name, Tensor destination)
    {
        ArgumentNullException.ThrowIfNull(destination);
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
            known.Add((file, OptimizerShard.Start(file.Metadata, name) ?? 0, Elements(file.Shape(name))));
        }
    }

    private void RequireWhole(string checkpoint, IReadOnlyList<(string Name, long[] Shape)> expected)
    {
        CheckpointStore.RequireNames($"The optimizer state of {checkpoint}", [.. slices.Keys], [.. expected.Select(entry => entry.Name)]);
        foreach (var (name, shape) in expected)
        {
            if (slices[name] is [var (file, _, _)] && OptimizerShard.Start(file.Metadata, name) is null)
                CheckpointStore.RequireShape(file, name, shape);
            long end = 0;
            foreach (var (_, start, length) in slices[name].OrderBy(slice => slice.Start))
                end = start == end ? end + length : -1;
            if (end != Elements(shape))
            {
                throw new UserException(
                    $"The optimizer state of {checkpoint} belongs to another model: its shards do not make up the {Elements(shape)} elements of this model's {name}. " +
                    CheckpointStore.GiveItsModelKeys);
            }
        }
    }

    private static long Elements(IEnumerable<long> shape) => shape.Aggregate(1L, (product, size) => product * size);
}
