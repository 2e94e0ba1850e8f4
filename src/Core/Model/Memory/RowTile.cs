using LongNet.Core.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Model.Memory;

/// <summary>
/// Some rows of some sequences: what a function of rows works on at once. Contiguous in a contiguous tensor.
/// </summary>
/// <param name="FirstSequence">Place in the batch.</param>
/// <param name="Sequences">How many; one, unless the rows are all.</param>
/// <param name="FirstRow">Place among the rows held.</param>
/// <param name="Rows">How many of each sequence.</param>
internal readonly record struct RowTile(long FirstSequence, long Sequences, long FirstRow, long Rows)
{
    // A tile's widest tensor then stays within the last cache of most processors.
    private const long DefaultElements = 4 << 20;

    // A GPU has no such cache: a tile is as large as it must be to keep the GPU busy.
    private const long DefaultElementsOfDevice = 64 << 20;

    private const long FewestRows = 256;

    /// <summary>
    /// Rows of a tile where nobody chooses: enough for fast matrix products, few enough for the caches.
    /// </summary>
    /// <param name="channels">Of the widest tensor in a tile.</param>
    /// <param name="device">Where it lies.</param>
    public static long DefaultRows(long channels, DeviceType device = DeviceType.CPU) =>
        Math.Max(
            FewestRows,
            (device == DeviceType.CPU ? DefaultElements : DefaultElementsOfDevice) / Math.Max(1, channels)
        );

    /// <summary>Cuts [batch, length, …] into tiles, in row order.</summary>
    /// <param name="batch">Sequences.</param>
    /// <param name="length">Rows of each.</param>
    /// <param name="rows">Most rows of a tile, over all its sequences.</param>
    public static IEnumerable<RowTile> Cut(long batch, long length, long rows)
    {
        long sequences = Math.Clamp(rows / Math.Max(1, length), 1, Math.Max(1, batch)),
            ofEach = Math.Clamp(rows, 1, Math.Max(1, length));
        for (long sequence = 0; sequence < batch; sequence += sequences)
        {
            for (long row = 0; row < length; row += ofEach)
                yield return new RowTile(
                    sequence,
                    Math.Min(sequences, batch - sequence),
                    row,
                    Math.Min(ofEach, length - row)
                );
        }
    }

    /// <summary>The tile of [batch, length, …]. A view, in the scope of the caller.</summary>
    public Tensor View(Tensor tensor) => tensor.narrow(0, FirstSequence, Sequences).narrow(1, FirstRow, Rows);

    /// <summary>The random choices of the tile's rows, which do not depend on the tiling.</summary>
    public DropoutContext? Of(DropoutContext? context) =>
        context is null
            ? null
            : context with
            {
                Sequences = [.. context.Sequences.Skip((int)FirstSequence).Take((int)Sequences)],
                Shard = context.Shard.Slice(FirstRow, Rows),
            };
}

/// <summary>How many rows a tile has.</summary>
/// <param name="Rows">Those that somebody chose; null for <see cref="RowTile.DefaultRows"/>.</param>
/// <param name="Channels">Of the widest tensor in a tile.</param>
internal readonly record struct TileSize(long? Rows, long Channels)
{
    /// <summary>The most rows of a tile on a kind of device.</summary>
    public long RowsOn(DeviceType device) => Rows ?? RowTile.DefaultRows(Channels, device);
}
