using LongNet.Core.Native;
using LongNet.Core.Numerics;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Backends.Nccl;

/// <summary>
/// The collectives of a group's CUDA tensors, once its ranks have joined (<see cref="Join"/>). Messages have a
/// communicator for every pair of ranks and direction, because NCCL runs the calls of one communicator in order, and a
/// rank may wait for one message before it sends another.
/// </summary>
/// <param name="host">The same ranks, for CPU tensors: it exchanges what NCCL needs to start.</param>
/// <param name="name">The group, for messages.</param>
/// <param name="queue">Its communicator, if it was made already. Owned by this object.</param>
internal sealed class NcclCommunicator(ICommunicator host, string name, CollectiveMonitor monitor, NcclQueue? queue)
    : ITensorTransport,
        IDisposable
{
    private readonly Dictionary<(int Peer, bool Sends), NcclQueue> links = [];
    private NcclQueue? queue = queue;

    public ITransfer AllGather(CollectiveCall call, Tensor? own, Tensor all, IReadOnlyList<long> counts) =>
        Queue(call).Launch(call, Gather(own is null ? 0 : TensorMemory.DeviceAddress(own), all, counts), own, all);

    public ITransfer ReduceScatter(
        CollectiveCall call,
        Tensor input,
        Tensor output,
        IReadOnlyList<long> counts,
        ReduceOperation operation
    )
    {
        NcclQueue through = Queue(call);
        if (Is16Bit(input))
        {
            ReduceWide(through, call, input, counts, output, operation);
            // The rest of the reduction is on the default stream.
            return through.Launch(call, null, output);
        }

        NcclType type = Type(input);
        NcclReduction reduction = Reduction(operation);
        nint from = TensorMemory.DeviceAddress(input),
            to = TensorMemory.DeviceAddress(output);
        long size = input.ElementSize;
        if (counts.Sum() == 0)
            return through.Launch(call, null, input, output);
        if (AreEqual(counts))
        {
            return through.Launch(
                call,
                (communicator, stream) =>
                    NcclNative.ReduceScatter(from, to, (nuint)counts[0], type, reduction, communicator, stream),
                input,
                output
            );
        }

        return through.Launch(
            call,
            (communicator, stream) =>
                Group(calls =>
                {
                    nint part = from;
                    for (int root = 0; root < counts.Count; root++)
                    {
                        if (counts[root] > 0)
                            calls.Add(
                                NcclNative.Reduce(
                                    part,
                                    root == host.Rank ? to : 0,
                                    (nuint)counts[root],
                                    type,
                                    reduction,
                                    root,
                                    communicator,
                                    stream
                                )
                            );
                        part += (nint)(counts[root] * size);
                    }
                }),
            input,
            output
        );
    }

    public ITransfer AllReduce(CollectiveCall call, Tensor tensor, ReduceOperation operation)
    {
        NcclQueue through = Queue(call);
        long elements = tensor.NumberOfElements;
        if (elements == 0)
            return through.Launch(call, null, tensor);
        if (Is16Bit(tensor))
        {
            using var noGradient = no_grad();
            using var scope = NewDisposeScope();
            long[] counts = ProcessGroup.EvenSplit(elements, host.Size);
            Tensor own = tensor.detach().view(-1).narrow(0, counts.Take(host.Rank).Sum(), counts[host.Rank]);
            ReduceWide(through, call, tensor, counts, own, operation);
            return through.Launch(call, Gather(0, tensor, counts), tensor);
        }

        NcclType type = Type(tensor);
        NcclReduction reduction = Reduction(operation);
        nint address = TensorMemory.DeviceAddress(tensor);
        return through.Launch(
            call,
            (communicator, stream) =>
                NcclNative.AllReduce(address, address, (nuint)elements, type, reduction, communicator, stream),
            tensor
        );
    }

    public ITransfer Broadcast(CollectiveCall call, Tensor tensor, int root)
    {
        nint address = TensorMemory.DeviceAddress(tensor);
        long bytes = TensorMemory.ByteLength(tensor);
        return Queue(call)
            .Launch(
                call,
                bytes == 0
                    ? null
                    : (communicator, stream) =>
                        NcclNative.Broadcast(
                            address,
                            address,
                            (nuint)bytes,
                            NcclType.UInt8,
                            root,
                            communicator,
                            stream
                        ),
                tensor
            );
    }

    public ITransfer AllToAll(
        CollectiveCall call,
        Tensor input,
        IReadOnlyList<long> sendCounts,
        Tensor output,
        IReadOnlyList<long> receiveCounts
    ) => Queue(call).Launch(call, Exchange(input, sendCounts, output, receiveCounts), input, output);

    public ITransfer Send(CollectiveCall call, Tensor tensor, int peer) => Message(call, tensor, peer, sends: true);

    public ITransfer Receive(CollectiveCall call, Tensor tensor, int peer) => Message(call, tensor, peer, sends: false);

    /// <summary>
    /// The communicators of subgroups, made from the group's where it has one; else those of the subgroups are
    /// made when they are needed. Collective.
    /// </summary>
    /// <param name="part">This rank's part; null where it needs no communicator.</param>
    /// <returns>The part's communicator; null where there is none yet, or none is needed.</returns>
    public NcclQueue? Split(CollectiveCall call, int color, int key, string partName, ICommunicator? part) =>
        part is null
            ? queue?.Split(call, NcclNative.NoColor, 0, partName, 0, 0)
            : queue?.Split(call, color, key, Called(partName), part.Rank, part.Size);

    /// <summary>Makes the group's communicator. Collective.</summary>
    /// <param name="handshake">Of all its ranks, without a problem.</param>
    public void Join(NcclHandshake handshake) =>
        queue = NcclQueue.Join(
            monitor,
            Called(name),
            host.Rank,
            host.Size,
            host.Members[host.Rank],
            handshake.Device,
            () => handshake.Id
        );

    /// <summary>Collective.</summary>
    public void Dispose()
    {
        foreach (NcclQueue link in links.Values)
            link.Dispose();
        links.Clear();
        queue?.Dispose();
        queue = null;
    }

    private static string Called(string group) => $"the group '{group}'";

    private static bool Is16Bit(Tensor tensor) => tensor.dtype is ScalarType.Float16 or ScalarType.BFloat16;

    private static bool AreEqual(IReadOnlyList<long> counts) => counts.All(count => count == counts[0]);

    private static NcclType Type(Tensor tensor) =>
        tensor.dtype switch
        {
            ScalarType.Float64 => NcclType.Float64,
            ScalarType.Float32 => NcclType.Float32,
            ScalarType.Int64 => NcclType.Int64,
            // A bool is a byte of 0 or 1, of which Max is "any" and Min is "all".
            ScalarType.Byte or ScalarType.Bool => NcclType.UInt8,
            _ => throw new ArgumentException($"No reduction of {tensor.dtype}.", nameof(tensor)),
        };

    private static NcclReduction Reduction(ReduceOperation operation) =>
        operation switch
        {
            ReduceOperation.Max => NcclReduction.Max,
            ReduceOperation.Min => NcclReduction.Min,
            ReduceOperation.Average => NcclReduction.Average,
            _ => NcclReduction.Sum,
        };

    // Calls that NCCL runs as one. The group is ended even where a call in it failed.
    private static NcclResult Group(Action<List<NcclResult>> make)
    {
        var calls = new List<NcclResult> { NcclNative.GroupStart() };
        if (NcclNative.IsError(calls[0]))
            return calls[0];
        make(calls);
        calls.Add(NcclNative.GroupEnd());
        return calls.FirstOrDefault(NcclNative.IsError, calls[^1]);
    }

    private NcclQueue Queue(CollectiveCall call) =>
        queue ?? throw new InvalidOperationException($"{call}: no rank has joined NCCL for {Called(name)}.");

    /// <param name="own">This rank's part; 0 where it already lies in its place.</param>
    private Func<NcclCommunicatorHandle, nint, NcclResult>? Gather(nint own, Tensor all, IReadOnlyList<long> counts)
    {
        nint start = TensorMemory.DeviceAddress(all);
        long size = all.ElementSize;
        if (counts.Sum() == 0)
            return null;
        if (AreEqual(counts))
        {
            long bytes = counts[0] * size;
            nint from = own == 0 ? start + (nint)(host.Rank * bytes) : own;
            return (communicator, stream) =>
                NcclNative.AllGather(from, start, (nuint)bytes, NcclType.UInt8, communicator, stream);
        }

        return (communicator, stream) =>
            Group(calls =>
            {
                nint part = start;
                for (int root = 0; root < counts.Count; root++)
                {
                    long bytes = counts[root] * size;
                    nint from = root == host.Rank && own != 0 ? own : part;
                    if (bytes > 0)
                        calls.Add(
                            NcclNative.Broadcast(from, part, (nuint)bytes, NcclType.UInt8, root, communicator, stream)
                        );
                    part += (nint)bytes;
                }
            });
    }

    private static Func<NcclCommunicatorHandle, nint, NcclResult>? Exchange(
        Tensor input,
        IReadOnlyList<long> sent,
        Tensor output,
        IReadOnlyList<long> received
    )
    {
        nint source = TensorMemory.DeviceAddress(input),
            target = TensorMemory.DeviceAddress(output);
        long size = input.ElementSize;
        if (sent.Sum() + received.Sum() == 0)
            return null;
        return (communicator, stream) =>
            Group(calls =>
            {
                nint from = source,
                    to = target;
                for (int peer = 0; peer < sent.Count; peer++)
                {
                    long sentBytes = sent[peer] * size,
                        receivedBytes = received[peer] * size;
                    if (sentBytes > 0)
                        calls.Add(NcclNative.Send(from, (nuint)sentBytes, NcclType.UInt8, peer, communicator, stream));
                    if (receivedBytes > 0)
                        calls.Add(
                            NcclNative.Receive(to, (nuint)receivedBytes, NcclType.UInt8, peer, communicator, stream)
                        );
                    from += (nint)sentBytes;
                    to += (nint)receivedBytes;
                }
            });
    }

    /// <summary>
    /// A reduction of a 16-bit type: the parts are exchanged, then summed in float32 in rank order, and rounded once.
    /// The sum runs on the default stream, so unlike NCCL's own reductions it does not overlap with computation.
    /// </summary>
    /// <param name="input">[Σ counts].</param>
    /// <param name="output">[counts[Rank]]; takes this rank's part; may lie in <paramref name="input"/>.</param>
    private void ReduceWide(
        NcclQueue through,
        CollectiveCall call,
        Tensor input,
        IReadOnlyList<long> counts,
        Tensor output,
        ReduceOperation operation
    )
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        long own = counts[host.Rank];
        Tensor parts = empty([host.Size, own], dtype: input.dtype, device: input.device);
        long[] received = [.. Enumerable.Repeat(own, host.Size)];
        through.Launch(call.Untracked(), Exchange(input, counts, parts, received), input, parts).Wait();
        if (own == 0)
            return;
        Tensor result = parts.select(0, 0).to(float32);
        for (int rank = 1; rank < host.Size; rank++)
        {
            Tensor other = parts.select(0, rank).to(float32);
            result = operation switch
            {
                ReduceOperation.Max => maximum(result, other),
                ReduceOperation.Min => minimum(result, other),
                _ => result.add_(other, Scalars.One),
            };
        }

        // The divisor is a tensor on the GPU: with a number libtorch multiplies by the reciprocal, which rounds
        // otherwise than the CPU's division.
        if (operation == ReduceOperation.Average)
            result.div_(tensor((float)host.Size, device: input.device));
        output.detach().view(-1).copy_(result);
    }

    private ITransfer Message(CollectiveCall call, Tensor tensor, int peer, bool sends)
    {
        nint address = TensorMemory.DeviceAddress(tensor);
        long bytes = TensorMemory.ByteLength(tensor);
        // Both ranks know that the message is empty.
        if (bytes == 0)
        {
            monitor.Start(call);
            monitor.Complete(call);
            return CompletedTransfer.Instance;
        }

        if (!links.TryGetValue((peer, sends), out NcclQueue? link))
            links.Add((peer, sends), link = Link(call, (int)tensor.device_index, peer, sends));
        // The sender is rank 0 of the two.
        return link.Enqueue(
            call,
            sends
                ? (communicator, stream) =>
                    NcclNative.Send(address, (nuint)bytes, NcclType.UInt8, 1, communicator, stream)
                : (communicator, stream) =>
                    NcclNative.Receive(address, (nuint)bytes, NcclType.UInt8, 0, communicator, stream),
            tensor
        );
    }

    // The sender's id is sent before the first message: messages between two ranks keep their order on any transport.
    private NcclQueue Link(CollectiveCall call, int device, int peer, bool sends)
    {
        NcclLibrary.Require();
        Tensor id = empty([NcclUniqueId.Length], dtype: uint8, device: CPU).DetachFromDisposeScope();
        if (sends)
            TensorMemory.Write(id, (span, _) => NcclHandshake.NewId().CopyTo(span));
        ITransfer exchange = sends ? host.Send(call.Untracked(), id, peer) : host.Receive(call.Untracked(), id, peer);
        return NcclQueue.Join(
            monitor,
            $"the messages from rank {(sends ? host.Rank : peer)} to rank {(sends ? peer : host.Rank)} of "
                + $"{Called(name)}",
            sends ? 0 : 1,
            2,
            host.Members[host.Rank],
            device,
            () =>
            {
                exchange.Wait();
                using (id)
                    return NcclUniqueId.From(TensorBytes.ToArray(id));
            }
        );
    }
}
