using LongNet.Distributed.Backends.Nccl;
using LongNet.Distributed.Backends.Staged;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Distributed.Backends;

/// <summary>
/// The one place that decides what transfers a tensor: the host's communicator those in its memory, NCCL or a copy in
/// the host's memory all others, as <see cref="DeviceTransport"/> says. The host's communicator also makes barriers and
/// splits, and exchanges what ranks must know before they can decide.
/// </summary>
/// <remarks>
/// <para>
/// The ranks of a group decide at their first collective of a CUDA tensor, where NCCL is loaded, and its subgroups
/// that are made later keep to it. Where NCCL is required and missing on any rank, every rank throws the same
/// exception.
/// </para>
/// <para>
/// A message has only two ranks, which may not know yet what the group will decide. So messages of CUDA tensors travel
/// by the host unless NCCL is required.
/// </para>
/// </remarks>
internal sealed class DeviceCommunicator : ICommunicator
{
    private readonly ICommunicator host;
    private readonly CollectiveMonitor monitor;
    private readonly DeviceTransportChoice choice;
    private readonly bool ownsChoice;
    private readonly string name;
    private readonly NcclCommunicator nccl;
    private readonly StagedTransport staged;

    // Null until the group has decided.
    private ITensorTransport? cuda;

    /// <param name="host">Transfers CPU tensors. Owned by this object.</param>
    /// <param name="name">The group, for messages.</param>
    /// <param name="choice">What carries tensors of devices. Owned by this object; its subgroups use it
    /// too.</param>
    public DeviceCommunicator(ICommunicator host, string name, CollectiveMonitor monitor, DeviceTransportChoice choice)
        : this(host, name, monitor, choice, ownsChoice: true, null) { }

    private DeviceCommunicator(
        ICommunicator host,
        string name,
        CollectiveMonitor monitor,
        DeviceTransportChoice choice,
        bool ownsChoice,
        NcclQueue? queue
    )
    {
        this.host = host;
        this.name = name;
        this.monitor = monitor;
        this.choice = choice;
        this.ownsChoice = ownsChoice;
        nccl = new NcclCommunicator(host, name, monitor, queue);
        staged = new StagedTransport(host, choice.Staging);
        if (queue is not null)
            cuda = nccl;
    }

    public int Rank => host.Rank;

    public int Size => host.Size;

    public IReadOnlyList<int> Members => host.Members;

    public string SupportedDevices => "CPU or CUDA";

    public bool Supports(Tensor tensor) => tensor.device_type != DeviceType.CPU || host.Supports(tensor);

    public ITransfer AllGather(CollectiveCall call, Tensor? own, Tensor all, IReadOnlyList<long> counts) =>
        For(call, all).AllGather(call, own, all, counts);

    public ITransfer ReduceScatter(
        CollectiveCall call,
        Tensor input,
        Tensor output,
        IReadOnlyList<long> counts,
        ReduceOperation operation
    ) => For(call, input).ReduceScatter(call, input, output, counts, operation);

    public ITransfer AllReduce(CollectiveCall call, Tensor tensor, ReduceOperation operation) =>
        For(call, tensor).AllReduce(call, tensor, operation);

    public ITransfer Broadcast(CollectiveCall call, Tensor tensor, int root) =>
        For(call, tensor).Broadcast(call, tensor, root);

    public ITransfer AllToAll(
        CollectiveCall call,
        Tensor input,
        IReadOnlyList<long> sendCounts,
        Tensor output,
        IReadOnlyList<long> receiveCounts
    ) => For(call, input).AllToAll(call, input, sendCounts, output, receiveCounts);

    public ITransfer Send(CollectiveCall call, Tensor tensor, int peer) => ForMessage(tensor).Send(call, tensor, peer);

    public ITransfer Receive(CollectiveCall call, Tensor tensor, int peer) =>
        ForMessage(tensor).Receive(call, tensor, peer);

    public ITransfer Barrier(CollectiveCall call) => host.Barrier(call);

    public ICommunicator Split(CollectiveCall call, int color, int key, string name)
    {
        ICommunicator subgroup = host.Split(call, color, key, name);
        // A rank that is by itself in its subgroup needs no NCCL communicator, but it takes part in making the others'.
        // The only rank of a job gets one, so that NCCL can be tested with one GPU.
        bool isSingle = subgroup.Size == 1 && Size > 1;
        NcclQueue? queue = nccl.Split(call, color, key, name, isSingle ? null : subgroup);
        if (isSingle)
            return subgroup;
        var part = new DeviceCommunicator(subgroup, name, monitor, choice, ownsChoice: false, queue);
        if (cuda == staged)
            part.cuda = part.staged;
        return part;
    }

    public void Dispose()
    {
        nccl.Dispose();
        host.Dispose();
        if (ownsChoice)
            choice.Dispose();
    }

    private ITensorTransport For(CollectiveCall call, Tensor tensor) =>
        tensor.device_type switch
        {
            DeviceType.CPU => host,
            // Nothing travels: the tensors stay where they are.
            _ when Size == 1 && choice.Transport != DeviceTransport.Nccl => SingleRankCommunicator.Instance,
            DeviceType.CUDA => cuda ??= Decide(call, (int)tensor.device_index),
            _ => staged,
        };

    private ITensorTransport ForMessage(Tensor tensor) =>
        tensor.device_type == DeviceType.CPU ? host
        : tensor.device_type == DeviceType.CUDA && choice.Transport == DeviceTransport.Nccl ? nccl
        : staged;

    // Collective over the group.
    private ITensorTransport Decide(CollectiveCall call, int device)
    {
        if (choice.Transport == DeviceTransport.Host)
            return staged;
        NcclHandshake handshake = NcclHandshake.Run(call, host, name, device);
        if (handshake.Problem is null)
        {
            nccl.Join(handshake);
            return nccl;
        }

        if (choice.Transport == DeviceTransport.Nccl)
            throw new AgreedUserException(handshake.Problem);
        if (host.Members[host.Rank] == 0)
            choice.NoteHost(handshake.Problem);
        return staged;
    }
}
