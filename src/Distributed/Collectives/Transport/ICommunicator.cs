using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives.Transport;

/// <summary>
/// Transfers the tensors of a group's collectives. A <c>ProcessGroup</c> has checked the arguments, made the outputs
/// and counted the bytes. Collectives of one communicator run in the order in which they were started.
/// </summary>
/// <remarks>
/// Every method starts a collective and returns at once where it can. The communicator keeps the tensors alive as
/// <see cref="CollectiveCall.Lifetime"/> says, reports to the <see cref="CollectiveMonitor"/> when the call starts and
/// completes, and throws a failure from <see cref="ITransfer.Wait"/>.
/// </remarks>
internal interface ICommunicator : IDisposable
{
    int Rank { get; }

    int Size { get; }

    /// <summary>World ranks of the group, in group order.</summary>
    IReadOnlyList<int> Members { get; }

    /// <summary>Whether it transfers tensors on this one's device.</summary>
    bool Supports(Tensor tensor);

    /// <summary>The devices whose tensors it transfers, for messages: "CPU" or "CPU or CUDA".</summary>
    string SupportedDevices { get; }

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

    ITransfer Barrier(CollectiveCall call);

    /// <summary>Blocking, as communicators are made rarely. Collective.</summary>
    ICommunicator Split(CollectiveCall call, int color, int key, string name);
}
