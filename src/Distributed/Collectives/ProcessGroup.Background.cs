using System.Runtime.CompilerServices;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives;

/// <content>
/// The collectives in the background: each returns once the collective is started, and the transfer keeps the tensors
/// alive until it is completed.
/// </content>
public sealed partial class ProcessGroup
{
    /// <inheritdoc cref="AllGather"/>
    /// <returns>The work whose result <see cref="AllGather"/> returns.</returns>
    public CollectiveWork StartAllGather(
        Tensor input,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => LaunchAllGather(input, TensorLifetime.KeptByTransfer, new CallerLocation(file, line));

    /// <inheritdoc cref="AllGatherUneven"/>
    /// <returns>The work whose result <see cref="AllGatherUneven"/> returns.</returns>
    public CollectiveWork StartAllGatherUneven(
        Tensor input,
        IReadOnlyList<long> counts,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => LaunchAllGatherUneven(input, counts, TensorLifetime.KeptByTransfer, new CallerLocation(file, line));

    /// <summary>Completes a tensor of which every rank holds its own part, in place. Collective.</summary>
    /// <param name="all">[Σ counts], contiguous; this rank's part, which begins after those of lower ranks, is not
    /// changed.</param>
    /// <param name="counts">Every rank's element count, the same list on all ranks; zeros allowed.</param>
    /// <returns>The work, whose result is the tensor.</returns>
    public CollectiveWork StartAllGatherInPlace(
        Tensor all,
        IReadOnlyList<long> counts,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => LaunchAllGatherInPlace(all, counts, TensorLifetime.KeptByTransfer, new CallerLocation(file, line));

    /// <inheritdoc cref="ReduceScatter"/>
    /// <returns>The work whose result <see cref="ReduceScatter"/> returns.</returns>
    public CollectiveWork StartReduceScatter(
        Tensor input,
        ReduceOperation operation = ReduceOperation.Sum,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => LaunchReduceScatter(input, operation, TensorLifetime.KeptByTransfer, new CallerLocation(file, line));

    /// <inheritdoc cref="ReduceScatterUneven"/>
    /// <returns>The work whose result <see cref="ReduceScatterUneven"/> returns.</returns>
    public CollectiveWork StartReduceScatterUneven(
        Tensor input,
        IReadOnlyList<long> counts,
        ReduceOperation operation = ReduceOperation.Sum,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) =>
        LaunchReduceScatterUneven(
            input,
            counts,
            operation,
            TensorLifetime.KeptByTransfer,
            new CallerLocation(file, line)
        );

    /// <summary>
    /// <see cref="StartReduceScatterUneven"/> in place: this rank's part of the sum takes its place in the tensor,
    /// whose other parts are left undefined. Collective.
    /// </summary>
    /// <param name="all">[Σ counts], contiguous, in no autograd graph; the same counts on all ranks.</param>
    /// <param name="counts">Every rank's part's element count; zeros allowed.</param>
    /// <returns>The work, whose result is the tensor.</returns>
    public CollectiveWork StartReduceScatterInPlace(
        Tensor all,
        IReadOnlyList<long> counts,
        ReduceOperation operation = ReduceOperation.Sum,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) =>
        LaunchReduceScatterInPlace(
            all,
            counts,
            operation,
            TensorLifetime.KeptByTransfer,
            new CallerLocation(file, line)
        );

    /// <inheritdoc cref="AllReduce"/>
    /// <returns>The work, whose result is the tensor.</returns>
    public CollectiveWork StartAllReduce(
        Tensor tensor,
        ReduceOperation operation = ReduceOperation.Sum,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => LaunchAllReduce(tensor, operation, TensorLifetime.KeptByTransfer, new CallerLocation(file, line));

    /// <inheritdoc cref="Broadcast"/>
    /// <returns>The work, whose result is the tensor.</returns>
    public CollectiveWork StartBroadcast(
        Tensor tensor,
        int root,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => LaunchBroadcast(tensor, root, TensorLifetime.KeptByTransfer, new CallerLocation(file, line));

    /// <inheritdoc cref="AllToAll"/>
    /// <returns>The work whose result <see cref="AllToAll"/> returns.</returns>
    public CollectiveWork StartAllToAll(
        Tensor input,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => LaunchAllToAll(input, TensorLifetime.KeptByTransfer, new CallerLocation(file, line));

    /// <inheritdoc cref="AllToAllUneven"/>
    /// <returns>The work whose result <see cref="AllToAllUneven"/> returns.</returns>
    public CollectiveWork StartAllToAllUneven(
        Tensor input,
        IReadOnlyList<long> sendCounts,
        IReadOnlyList<long> receiveCounts,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) =>
        LaunchAllToAllUneven(
            input,
            sendCounts,
            receiveCounts,
            TensorLifetime.KeptByTransfer,
            new CallerLocation(file, line)
        );

    /// <inheritdoc cref="Send"/>
    /// <returns>The work; it has no result.</returns>
    public CollectiveWork StartSend(
        Tensor tensor,
        int peer,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => LaunchSend(tensor, peer, TensorLifetime.KeptByTransfer, new CallerLocation(file, line));

    /// <inheritdoc cref="Receive"/>
    /// <returns>The work, whose result is the tensor.</returns>
    public CollectiveWork StartReceive(
        Tensor tensor,
        int peer,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => LaunchReceive(tensor, peer, TensorLifetime.KeptByTransfer, new CallerLocation(file, line));

    /// <inheritdoc cref="Barrier"/>
    /// <returns>The work; it has no result.</returns>
    public CollectiveWork StartBarrier([CallerFilePath] string file = "", [CallerLineNumber] int line = 0) =>
        LaunchBarrier(TensorLifetime.KeptByTransfer, new CallerLocation(file, line));
}
