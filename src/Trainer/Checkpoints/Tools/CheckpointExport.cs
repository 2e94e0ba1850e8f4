using LongNet.Core;
using LongNet.Core.Model.Torchscale;
using LongNet.Core.Serialization;
using LongNet.Trainer.Configuration;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints.Tools;

/// <summary>What an export has written.</summary>
/// <param name="Tensors">How many tensors.</param>
/// <param name="Parameters">Their elements.</param>
/// <param name="Bytes">Size of the file.</param>
/// <param name="Notes">What to look at although it is written, one sentence each.</param>
internal sealed record ExportedWeights(int Tensors, long Parameters, long Bytes, IReadOnlyList<string> Notes);

/// <summary>
/// Only the weights of a checkpoint, in one safetensors file, in any floating-point type. One tensor at a time is in
/// memory.
/// </summary>
internal static class CheckpointExport
{
    private const long ChunkElements = 1 << 20;

    /// <summary>
    /// Checks the weights' digest and writes them: the file appears complete or not at all. Loads no library: that is
    /// the caller's.
    /// </summary>
    /// <param name="checkpoint">Its folder.</param>
    /// <param name="output">File to write; its folder must exist.</param>
    /// <param name="type">One of <see cref="TypeNames.All"/>. Numbers are rounded to the nearest, of two as near to the
    /// even one, as libtorch does.</param>
    /// <param name="overwrite">Whether a file that is there is replaced.</param>
    /// <exception cref="UserException">The checkpoint is damaged, or the file is there or cannot be
    /// written.</exception>
    public static ExportedWeights Write(string checkpoint, string output, string type, bool overwrite)
    {
        RequireFree(output, overwrite);
        CheckpointManifest manifest = CheckpointVerification.ReadManifest(checkpoint);
        CheckpointVerification.ThrowIfDamaged(
            checkpoint,
            [
                CheckpointVerification.Of(
                    checkpoint,
                    manifest.Files.Single(file => file.Name == CheckpointStore.ModelFile)
                ),
            ]
        );
        using SafetensorsReader reader = CheckpointStore.OpenTensors(checkpoint, CheckpointStore.ModelFile);
        var notes = new List<string>();
        var overflows = new Dictionary<string, long>();
        ScalarType target = TypeNames.Parse(type);
        SafetensorsLayout layout = SafetensorsLayout.Of(
            [
                .. reader.Names.Select(name => new SafetensorsEntry(name, target, reader.Shape(name), () =>
                    Converted(reader, name, target, overflows)
                )),
            ],
            Metadata(manifest, type, notes)
        );
        SafetensorsWriter.Write(output, layout);
        if (overflows.Count > 0)
        {
            notes.Add(
                $"{overflows.Values.Sum()} values are too large for {type} and became infinite, in "
                    + $"{overflows.Count} of {reader.Names.Count} tensors, such as "
                    + $"{overflows.MaxBy(entry => entry.Value).Key}: take --dtype "
                    + $"{(type == TypeNames.Float16 ? TypeNames.BFloat16 : TypeNames.Float32)}."
            );
        }

        return new ExportedWeights(
            reader.Names.Count,
            reader.Names.Sum(name => reader.Shape(name).Aggregate(1L, (product, size) => product * size)),
            layout.FileLength,
            notes
        );
    }

    private static void RequireFree(string output, bool overwrite)
    {
        if (Directory.Exists(output))
            throw new UserException(
                $"--output {output} is a folder: name a file in it, such as "
                    + $"{Path.Combine(output, "weights.safetensors")}."
            );
        string folder = Path.GetDirectoryName(Path.GetFullPath(output))!;
        if (File.Exists(Path.Combine(folder, CheckpointManifest.FileName)))
            throw new UserException(
                $"--output {output} lies in a checkpoint, which would then hold what no run has written: "
                    + "name a file elsewhere."
            );
        if (File.Exists(output) && !overwrite)
            throw new UserException(
                $"--output {output} is already there: add --force to replace it, or name another file."
            );
    }

    private static Tensor Converted(
        SafetensorsReader reader,
        string name,
        ScalarType type,
        Dictionary<string, long> overflows
    )
    {
        using var scope = NewDisposeScope();
        using var noGradient = no_grad();
        Tensor value = reader.Read(name);
        if (value.dtype == type)
            return value.MoveToOuterDisposeScope();
        Tensor converted = empty(value.shape, type, CPU);
        Tensor from = value.view(-1),
            to = converted.view(-1);
        long overflowed = 0;
        // Looking for what is infinite takes several times the memory of what is looked at.
        for (long start = 0; start < from.shape[0]; start += ChunkElements)
        {
            using var chunk = NewDisposeScope();
            long count = Math.Min(ChunkElements, from.shape[0] - start);
            Tensor wide = from.narrow(0, start, count),
                narrow = to.narrow(0, start, count).copy_(wide);
            overflowed += wide.isfinite().logical_and(narrow.isfinite().logical_not()).sum().item<long>();
        }

        if (overflowed > 0)
            overflows[name] = overflowed;
        return converted.MoveToOuterDisposeScope();
    }

    private static Dictionary<string, string> Metadata(CheckpointManifest manifest, string type, List<string> notes)
    {
        var metadata = new Dictionary<string, string>
        {
            // Which framework's tensors these are: loaders in Python ask for it.
            ["format"] = "pt",
            ["longnet.step"] = manifest.Step.ToString(),
            ["longnet.dtype"] = type,
        };
        if (ConfigurationFile.ModelOf(manifest.Config) is { } model)
        {
            foreach (var (key, value) in TorchscaleWeights.Metadata(model))
                metadata[key] = value;
        }
        else
        {
            notes.Add(
                "the checkpoint's model keys are not those of this longnet, so the file does not say its "
                    + "heads, head offsets and positions."
            );
        }

        return metadata;
    }
}
