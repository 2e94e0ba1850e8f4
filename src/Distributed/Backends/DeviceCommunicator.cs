using LongNet.Distributed.Backends.Nccl;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Distributed.Backends;

/// <summary>
/// The one place that decides which backend transfers a tensor: NCCL those in GPU memory, the host's communicator all
/// others. The host's communicator also makes barriers and splits, and exchanges what ranks must know before NCCL can
/// start.
/// </summary>
/// <remarks>
/// NCCL is loaded at the first CUDA tensor. Where it is missing on any rank, every rank throws the same exception.
/// </remarks>
internal sealed class DeviceCommunicator : ICommunicator
{
    private readonly ICommunicator host;
    private readonly CollectiveMonitor monitor;
    private readonly NcclCommunicator gpus;

    /// <param name="host">Transfers CPU tensors. Owned by this object.</param>
    /// <param name="name">The group, for messages.</param>
    public DeviceCommunicator(ICommunicator host, string name, CollectiveMonitor monitor)
        : this(host, name, monitor, null) { }

    private DeviceCommunicator(ICommunicator host, string name, CollectiveMonitor monitor, NcclQueue? queue)
    {
        this.host = host;
        this.monitor = monitor;
        gpus = new NcclCommunicator(host, name, monitor, queue);
    }

    public int Rank => host.Rank;

    public int Size => host.Size;

    public IReadOnlyList<int> Members => host.Members;

    public string SupportedDevices => "CPU or CUDA";

    public bool Supports(Tensor tensor) => IsOnGpu(tensor) || host.Supports(tensor);

    public ITransfer AllGather(CollectiveCall call, Tensor? own, Tensor all, IReadOnlyList<long> counts) =>
        IsOnGpu(all) ? gpus.AllGather(call, own, all, counts) : host.AllGather(call, own, all, counts);

    public ITransfer ReduceScatter(
        CollectiveCall call,
        Tensor input,
        Tensor output,
        IReadOnlyList<long> counts,
        ReduceOperation operation
    ) =>
        IsOnGpu(input)
            ? gpus.ReduceScatter(call, input, output, counts, operation)
            : host.ReduceScatter(call, input, output, counts, operation);

    public ITransfer AllReduce(CollectiveCall call, Tensor tensor, ReduceOperation operation) =>
        IsOnGpu(tensor) ? gpus.AllReduce(call, tensor, operation) : host.AllReduce(call, tensor, operation);

    public ITransfer Broadcast(CollectiveCall call, Tensor tensor, int root) =>
        IsOnGpu(tensor) ? gpus.Broadcast(call, tensor, root) : host.Broadcast(call, tensor, root);

    public ITransfer AllToAll(
        CollectiveCall call,
        Tensor input,
        IReadOnlyList<long> sendCounts,
        Tensor output,
        IReadOnlyList<long> receiveCounts
    ) =>
        IsOnGpu(input)
            ? gpus.AllToAll(call, input, sendCounts, output, receiveCounts)
            : host.AllToAll(call, input, sendCounts, output, receiveCounts);

    public ITransfer Send(CollectiveCall call, Tensor tensor, int peer) =>
        IsOnGpu(tensor) ? gpus.Send(call, tensor, peer) : host.Send(call, tensor, peer);

    public ITransfer Receive(CollectiveCall call, Tensor tensor, int peer) =>
        IsOnGpu(tensor) ? gpus.Receive(call, tensor, peer) : host.Receive(call, tensor, peer);

    public ITransfer Barrier(CollectiveCall call) => host.Barrier(call);

    public ICommunicator Split(CollectiveCall call, int color, int key, string name)
    {
        ICommunicator subgroup = host.Split(call, color, key, name);
        // A rank that is by itself in its subgroup needs no NCCL communicator, but it takes part in making the others'.
        // The only rank of a job gets one, so that NCCL can be tested with one GPU.
        bool isSingle = subgroup.Size == 1 && Size > 1;
        NcclQueue? queue = gpus.Split(call, color, key, name, isSingle ? null : subgroup);
        return isSingle ? subgroup : new DeviceCommunicator(subgroup, name, monitor, queue);
    }

    public void Dispose()
    {
        gpus.Dispose();
        host.Dispose();
    }

    private static bool IsOnGpu(Tensor tensor) => tensor.device_type == DeviceType.CUDA;
}
