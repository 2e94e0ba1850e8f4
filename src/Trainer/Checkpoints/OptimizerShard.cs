using System.Globalization;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>Part of a tensor of the optimizer state.</summary>
/// <param name="Name">The whole tensor's name.</param>
/// <param name="Start">Where the part begins in the whole, flattened.</param>
/// <param name="Value">[elements]. Not owned.</param>
public sealed record StateSlice(string Name, long Start, Tensor Value);

/// <summary>
/// One rank's file of a sharded optimizer state: a tensor per slice under the whole tensor's name, and in the metadata, under the same
/// name, where the slice begins.
/// </summary>
internal static class OptimizerShard
{
    /// <summary>E.g. optimizer-00000-of-00004.safetensors.</summary>
    public static string FileName(int shard, int shards) => string.Create(CultureInfo.InvariantCulture, $"optimizer-{shard:D5}-of-{shards:D5}.safetensors");

    /// <summary>What the file says of its slices.</summary>
    public static IReadOnlyDictionary<string, string> Metadata(IEnumerable<StateSlice> slices) =>
        slices.ToDictionary(slice => slice.Name, slice => slice.Start.ToString(CultureInfo.InvariantCulture));

    /// <summary>Where a slice begins; null where the file does not say.</summary>
    public static long? Start(IReadOnlyDictionary<string, string> metadata, string name) =>
        metadata.TryGetValue(name, out string? text) && long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long start) ? start : null;
}
