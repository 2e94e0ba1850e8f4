using System.Globalization;
using static TorchSharp.torch;

namespace LongNet.Trainer.Checkpoints;

/// <summary>A tensor of the optimizer state, or a part of one.</summary>
/// <param name="Name">The complete tensor's name.</param>
/// <param name="Start">Where the part begins in the complete tensor, flattened; null where it is complete.</param>
/// <param name="Value">[elements] for a part. Not owned.</param>
internal sealed record StateSlice(string Name, long? Start, Tensor Value);

/// <summary>
/// One rank's file of the optimizer state: a tensor per slice under the complete tensor's name, and in the metadata,
/// under the same name, where a slice begins that is only a part.
/// </summary>
internal static class OptimizerShard
{
    /// <summary>E.g. optimizer-00000-of-00004.safetensors.</summary>
    public static string FileName(int shard, int shards) => $"optimizer-{shard:D5}-of-{shards:D5}.safetensors";

    /// <summary>The metadata of a file with these slices.</summary>
    public static IReadOnlyDictionary<string, string> Metadata(IEnumerable<StateSlice> slices) =>
        slices
            .Where(slice => slice.Start is not null)
            .ToDictionary(slice => slice.Name, slice => slice.Start!.Value.ToString());

    /// <summary>
    /// Where a slice begins; null where the file has the complete tensor, -1 where its metadata is no number.
    /// </summary>
    public static long? Start(IReadOnlyDictionary<string, string> metadata, string name) =>
        !metadata.TryGetValue(name, out string? text) ? null
        : long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out long start) ? start
        : -1;
}
