using System.Globalization;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>A tensor of the optimizer state, or a part of one.</summary>
/// <param name="Name">The whole tensor's name.</param>
/// <param name="Start">Where the part begins in the whole, flattened; null for a whole tensor.</param>
/// <param name="Value">[elements] for a part. Not owned.</param>
internal sealed record StateSlice(string Name, long? Start, Tensor Value);

/// <summary>
/// One rank's file of the optimizer state: a tensor per slice under the whole tensor's name, and in the metadata, under
/// the same name, where a slice begins that is not the whole.
/// </summary>
internal static class OptimizerShard
{
    /// <summary>E.g. optimizer-00000-of-00004.safetensors.</summary>
    public static string FileName(int shard, int shards) => $"optimizer-{shard:D5}-of-{shards:D5}.safetensors";

    /// <summary>What the file says of its slices.</summary>
    public static IReadOnlyDictionary<string, string> Metadata(IEnumerable<StateSlice> slices) =>
        slices
            .Where(slice => slice.Start is not null)
            .ToDictionary(slice => slice.Name, slice => slice.Start!.Value.ToString());

    /// <summary>Where a slice begins; null where the file holds the whole, -1 where it tells no place.</summary>
    public static long? Start(IReadOnlyDictionary<string, string> metadata, string name) =>
        !metadata.TryGetValue(name, out string? text) ? null
        : long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long start) ? start
        : -1;
}
