using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives.Transport;

/// <summary>
/// The collectives of a group's tensors on some devices. A <c>ProcessGroup</c> has checked the arguments, made the
/// outputs and counted the bytes. Collectives run in the order in which they were started.
/// </summary>
/// <remarks>
/// Every method starts a collective and returns at once where it can. The transport keeps the tensors alive as
/// <see cref="CollectiveCall.Lifetime"/> says, reports to the <see cref="CollectiveMonitor"/> when the call starts and
/// completes, and throws a failure from <see cref="ITransfer.Wait"/>.
/// </remarks>
internal interface ITensorTransport
{
    /// <param name="own">This rank's part; null where it already lies in its place in <paramref name="all"/>.</param>
    /// <param name="all">[Σ counts], flat.</param>
    /// <param name="counts">Elements of every rank.</param>
    ITransfer AllGather(CollectiveCall call, Tensor? own, Tensor all, IReadOnlyList<long> counts);

    /// <param name="input">[Σ counts], flat.</param>
    /// <param name="output">[counts[Rank]]; may be this rank's part of the input, whose other parts are then free to be
    /// overwritten.</param>
    ITransfer ReduceScatter(
        CollectiveCall call,
        Tensor input,
        Tensor output,
        IReadOnlyList<long> counts,
        ReduceOperation operation
    );

    ITransfer AllReduce(CollectiveCall call, Tensor tensor, ReduceOperation operation);

    ITransfer Broadcast(CollectiveCall call, Tensor tensor, int root);

    /// <param name="input">[Σ sendCounts], flat.</param>
    /// <param name="output">[Σ receiveCounts], flat.</param>
    ITransfer AllToAll(
        CollectiveCall call,
        Tensor input,
        IReadOnlyList<long> sendCounts,
        Tensor output,
        IReadOnlyList<long> receiveCounts
    );

    ITransfer Send(CollectiveCall call, Tensor tensor, int peer);

    ITransfer Receive(CollectiveCall call, Tensor tensor, int peer);
}
