using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Trainer.Measuring;

/// <summary>A collective that is measured, and the share of its buffer that crosses the slowest link.</summary>
/// <param name="Kind">The collective.</param>
/// <param name="BusShare">Bytes over a rank's link per byte of the larger buffer, of P ranks: the convention of
/// nccl-tests.</param>
/// <param name="Prepare">Takes the buffer of a rank, [P, elements of a part], and returns the call that is measured.
/// Collective.</param>
internal sealed record CollectiveOperation(
    CollectiveKind Kind,
    Func<double, double> BusShare,
    Func<ProcessGroup, Tensor, Action> Prepare
)
{
    /// <summary>All operations, in the order in which they are measured.</summary>
    public static IReadOnlyList<CollectiveOperation> All { get; } =
    [
        // Each rank gives the part of its own number, so that the result is as large as the buffer.
        new(
            CollectiveKind.AllGather,
            ranks => (ranks - 1) / ranks,
            (group, buffer) =>
            {
                Tensor own = buffer[group.Rank];
                return () => group.AllGather(own).Dispose();
            }
        ),
        new(
            CollectiveKind.ReduceScatter,
            ranks => (ranks - 1) / ranks,
            (group, buffer) => () => group.ReduceScatter(buffer).Dispose()
        ),
        new(
            CollectiveKind.AllReduce,
            ranks => 2 * (ranks - 1) / ranks,
            (group, buffer) => () => group.AllReduce(buffer)
        ),
        new(CollectiveKind.Broadcast, _ => 1, (group, buffer) => () => group.Broadcast(buffer, 0)),
        new(
            CollectiveKind.AllToAll,
            ranks => (ranks - 1) / ranks,
            (group, buffer) => () => group.AllToAll(buffer).Dispose()
        ),
    ];

    /// <summary>The name on the command line and in reports, e.g. "all-gather".</summary>
    public string Name => Kind.Term();

    /// <summary>The operation of a kind.</summary>
    public static CollectiveOperation Of(CollectiveKind kind) => All.First(operation => operation.Kind == kind);

    /// <summary>The operation of a name.</summary>
    public static CollectiveOperation Named(string name) => All.First(operation => operation.Name == name);
}
