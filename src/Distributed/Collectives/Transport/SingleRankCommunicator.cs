using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives.Transport;

/// <summary>A group of one rank: loads no MPI; every collective is a copy or nothing.</summary>
/// <param name="worldRank">Its rank in the job.</param>
internal sealed class SingleRankCommunicator(int worldRank) : ICommunicator
{
    public static SingleRankCommunicator Instance { get; } = new(0);

    public int Rank => 0;

    public int Size => 1;

    public IReadOnlyList<int> Members { get; } = [worldRank];

    public string SupportedDevices => "CPU or CUDA";

    public bool Supports(Tensor tensor) => true;

    public ITransfer AllGather(CollectiveCall call, Tensor? own, Tensor all, IReadOnlyList<long> counts) =>
        own is null ? CompletedTransfer.Instance : Copy(own, all);

    public ITransfer ReduceScatter(
        CollectiveCall call,
        Tensor input,
        Tensor output,
        IReadOnlyList<long> counts,
        ReduceOperation operation
    ) => Copy(input, output);

    public ITransfer AllReduce(CollectiveCall call, Tensor tensor, ReduceOperation operation) =>
        CompletedTransfer.Instance;

    public ITransfer Broadcast(CollectiveCall call, Tensor tensor, int root) => CompletedTransfer.Instance;

    public ITransfer AllToAll(
        CollectiveCall call,
        Tensor input,
        IReadOnlyList<long> sendCounts,
        Tensor output,
        IReadOnlyList<long> receiveCounts
    ) => Copy(input, output);

    public ITransfer Send(CollectiveCall call, Tensor tensor, int peer) =>
        throw new InvalidOperationException("One rank has no peer.");

    public ITransfer Receive(CollectiveCall call, Tensor tensor, int peer) =>
        throw new InvalidOperationException("One rank has no peer.");

    public ITransfer Barrier(CollectiveCall call) => CompletedTransfer.Instance;

    public ICommunicator Split(CollectiveCall call, int color, int key, string name) => this;

    public void Dispose() { }

    // Without autograd history, like the results of other communicators.
    private static CompletedTransfer Copy(Tensor input, Tensor output)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        output.view(-1).copy_(input.detach().view(-1));
        return CompletedTransfer.Instance;
    }
}
