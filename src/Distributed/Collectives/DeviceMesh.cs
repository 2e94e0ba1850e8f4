using LongNet.Core;
using LongNet.Core.Numerics;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// The ranks as a grid of data × sequence: ranks of a row share one sequence, ranks of a column hold the same part of
/// different sequences. The sequence axis varies fastest, so that its ranks, which communicate most, are on one
/// machine.
/// </summary>
public sealed class DeviceMesh : IDisposable
{
    /// <summary>Arranges the ranks. Collective over the world.</summary>
    /// <param name="world">All ranks. Not owned.</param>
    /// <param name="data">Sequences trained at a time; null: the ranks divided by the other axis, or 1 where that is
    /// null too.</param>
    /// <param name="sequence">Ranks that share a sequence; null: the ranks divided by the other axis, or all where
    /// that is null too.</param>
    /// <exception cref="UserException">The axes' product is not the number of ranks; thrown alike on every
    /// rank.</exception>
    public DeviceMesh(ProcessGroup world, int? data, int? sequence)
    {
        ArgumentNullException.ThrowIfNull(world);
        (DataSize, SequenceSize) = Resolve(data, sequence, world.Size);
        World = world;
        DataRank = world.Rank / SequenceSize;
        SequenceRank = world.Rank % SequenceSize;
        Sequence = world.Split(DataRank, world.Rank, "sequence");
        Data = world.Split(SequenceRank, world.Rank, "data");
    }

    /// <summary>All ranks. Not owned.</summary>
    public ProcessGroup World { get; }

    /// <summary>The ranks that hold the same part of different sequences. Owned by the mesh.</summary>
    public ProcessGroup Data { get; }

    /// <summary>The ranks that share a sequence, in row order. Owned by the mesh.</summary>
    public ProcessGroup Sequence { get; }

    public int DataSize { get; }

    public int SequenceSize { get; }

    public int DataRank { get; }

    public int SequenceRank { get; }

    /// <summary>The size of both axes. Pure: no collective.</summary>
    /// <exception cref="UserException">The axes' product is not the number of ranks; the message says what
    /// fits.</exception>
    public static (int Data, int Sequence) Resolve(int? data, int? sequence, int worldSize)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(worldSize);
        CheckPositive("data", data);
        CheckPositive("sequence", sequence);
        string started = worldSize == 1 ? "1 rank was started" : $"{worldSize} ranks were started";
        switch (data, sequence)
        {
            case (null, null):
                return (1, worldSize);
            case (int d, int s) when (long)d * s == worldSize:
                return (d, s);
            case (int d, int s):
                string otherwise =
                    worldSize % d == 0 ? $"set sequence: {worldSize / d}"
                    : worldSize % s == 0 ? $"set data: {worldSize / s}"
                    : "set both to auto";
                throw new UserException(
                    $"parallel: data ({d}) × sequence ({s}) = {(long)d * s}, but {started}. Start "
                        + $"{(long)d * s} ranks, or {otherwise}."
                );
            case (int d, null):
                return (d, Quotient("data", d));
            case (null, int s):
                return (Quotient("sequence", s), s);
        }

        int Quotient(string axis, int size) =>
            worldSize % size == 0
                ? worldSize / size
                : throw new UserException(
                    $"parallel: {axis} ({size}) does not divide the {worldSize} "
                        + $"rank{(worldSize == 1 ? "" : "s")} that {(worldSize == 1 ? "was" : "were")} started. "
                        + $"Start {Math.Max(1, (worldSize + size / 2) / size) * (long)size} ranks, or set "
                        + $"{axis}: {Integers.NearestDivisor(worldSize, size)}."
                );
    }

    /// <summary>Collective, as <see cref="ProcessGroup.Dispose()"/> is.</summary>
    public void Dispose()
    {
        Data.Dispose();
        Sequence.Dispose();
    }

    private static void CheckPositive(string axis, int? size)
    {
        if (size is <= 0)
            throw new UserException($"parallel: {axis} ({size}) must be a number of ranks, 1 or more, or auto.");
    }
}
