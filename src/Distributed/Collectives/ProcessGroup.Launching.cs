using LongNet.Core.Native;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives;

/// <content>
/// How a collective starts, blocking or not: its arguments are checked, its output is made, its bytes are counted, the
/// monitor learns of the call (<see cref="Begin"/>), and the communicator starts the transfer.
/// </content>
public sealed partial class ProcessGroup
{
    // Number of the last message per direction and peer.
    private readonly Dictionary<(CollectiveKind Kind, int Peer), long> messageNumbers = [];
    private CommunicationVolume volume;
    private long collectives;

    private CollectiveWork LaunchAllGather(Tensor input, TensorLifetime lifetime, CallerLocation caller)
    {
        Check(nameof(AllGather), input);
        Tensor output = empty([Size, .. CollectiveSignature.Shape(input)], dtype: input.dtype, device: input.device);
        Func<string> signature = CollectiveSignature.Of(input);
        return LaunchAllGather(input, output, Repeated(input.NumberOfElements), signature, lifetime, caller);
    }

    private CollectiveWork LaunchAllGatherUneven(
        Tensor input,
        IReadOnlyList<long> counts,
        TensorLifetime lifetime,
        CallerLocation caller
    )
    {
        Check(nameof(AllGatherUneven), input);
        CheckCounts(nameof(AllGatherUneven), input.NumberOfElements, counts, holdsAllParts: false);
        Tensor output = empty([counts.Sum()], dtype: input.dtype, device: input.device);
        Func<string> signature = CollectiveSignature.Of(counts, input.dtype);
        return LaunchAllGather(input, output, counts, signature, lifetime, caller);
    }

    private CollectiveWork LaunchAllGatherInPlace(
        Tensor all,
        IReadOnlyList<long> counts,
        TensorLifetime lifetime,
        CallerLocation caller
    )
    {
        Check(nameof(StartAllGatherInPlace), all);
        CheckCounts(nameof(StartAllGatherInPlace), all.NumberOfElements, counts, holdsAllParts: true);
        return LaunchAllGather(null, all, counts, CollectiveSignature.Of(counts, all.dtype), lifetime, caller);
    }

    /// <param name="own">This rank's part; null where it already lies in its place in <paramref name="all"/>.</param>
    private CollectiveWork LaunchAllGather(
        Tensor? own,
        Tensor all,
        IReadOnlyList<long> counts,
        Func<string> signature,
        TensorLifetime lifetime,
        CallerLocation caller
    )
    {
        long ownBytes = counts[Rank] * all.ElementSize;
        AddVolume(ownBytes, TensorMemory.ByteLength(all) - ownBytes);
        long payload = TensorMemory.ByteLength(own ?? all);
        CollectiveCall call = Begin(new(CollectiveKind.AllGather, signature, payload, lifetime, caller));
        return WorkOf(call, communicator.AllGather(call, own, all, counts), all);
    }

    private CollectiveWork LaunchReduceScatter(
        Tensor input,
        ReduceOperation operation,
        TensorLifetime lifetime,
        CallerLocation caller
    )
    {
        Check(nameof(ReduceScatter), input);
        CollectiveArguments.CheckSlices(this, nameof(ReduceScatter), input);
        CollectiveArguments.CheckReduction(this, nameof(ReduceScatter), input.dtype, operation);
        Tensor output = empty(CollectiveSignature.Shape(input)[1..], dtype: input.dtype, device: input.device);
        IReadOnlyList<long> counts = Repeated(input.NumberOfElements / Size);
        AddReduceScatterVolume(input, TensorMemory.ByteLength(output));
        Func<string> signature = CollectiveSignature.Of(input, operation);
        CollectiveCall call = BeginReduceScatter(input, signature, lifetime, caller);
        return WorkOf(call, communicator.ReduceScatter(call, input, output, counts, operation), output);
    }

    private CollectiveWork LaunchReduceScatterUneven(
        Tensor input,
        IReadOnlyList<long> counts,
        ReduceOperation operation,
        TensorLifetime lifetime,
        CallerLocation caller
    )
    {
        Check(nameof(ReduceScatterUneven), input);
        CheckCounts(nameof(ReduceScatterUneven), input.NumberOfElements, counts, holdsAllParts: true);
        CollectiveArguments.CheckReduction(this, nameof(ReduceScatterUneven), input.dtype, operation);
        Tensor output = empty([counts[Rank]], dtype: input.dtype, device: input.device);
        AddReduceScatterVolume(input, TensorMemory.ByteLength(output));
        Func<string> signature = CollectiveSignature.Of(counts, input.dtype, operation);
        CollectiveCall call = BeginReduceScatter(input, signature, lifetime, caller);
        return WorkOf(call, communicator.ReduceScatter(call, input, output, counts, operation), output);
    }

    private CollectiveWork LaunchReduceScatterInPlace(
        Tensor all,
        IReadOnlyList<long> counts,
        ReduceOperation operation,
        TensorLifetime lifetime,
        CallerLocation caller
    )
    {
        Check(nameof(StartReduceScatterInPlace), all);
        CheckCounts(nameof(StartReduceScatterInPlace), all.NumberOfElements, counts, holdsAllParts: true);
        CollectiveArguments.CheckReduction(this, nameof(StartReduceScatterInPlace), all.dtype, operation);
        AddReduceScatterVolume(all, counts[Rank] * all.ElementSize);
        Func<string> signature = CollectiveSignature.Of(counts, all.dtype, operation);
        CollectiveCall call = BeginReduceScatter(all, signature, lifetime, caller);
        using var scope = NewDisposeScope();
        Tensor own = all.view(-1).narrow(0, counts.Take(Rank).Sum(), counts[Rank]);
        return WorkOf(call, communicator.ReduceScatter(call, all, own, counts, operation), all);
    }

    private void AddReduceScatterVolume(Tensor input, long ownBytes) =>
        AddVolume(TensorMemory.ByteLength(input) - ownBytes, (Size - 1) * ownBytes);

    private CollectiveCall BeginReduceScatter(
        Tensor input,
        Func<string> signature,
        TensorLifetime lifetime,
        CallerLocation caller
    ) => Begin(new(CollectiveKind.ReduceScatter, signature, TensorMemory.ByteLength(input), lifetime, caller));

    private CollectiveWork LaunchAllReduce(
        Tensor tensor,
        ReduceOperation operation,
        TensorLifetime lifetime,
        CallerLocation caller
    )
    {
        Check(nameof(AllReduce), tensor);
        CollectiveArguments.CheckReduction(this, nameof(AllReduce), tensor.dtype, operation);
        long bytes = TensorMemory.ByteLength(tensor),
            ownBytes = EvenSplit(tensor.NumberOfElements, Size)[Rank] * tensor.ElementSize;
        // Counted as a reduce-scatter and an all-gather, whichever way the backend takes.
        AddVolume(bytes, (Size - 1) * ownBytes + bytes - ownBytes);
        Func<string> signature = CollectiveSignature.Of(tensor, operation);
        CollectiveCall call = Begin(new(CollectiveKind.AllReduce, signature, bytes, lifetime, caller));
        return WorkOf(call, communicator.AllReduce(call, tensor, operation), tensor);
    }

    private CollectiveWork LaunchBroadcast(Tensor tensor, int root, TensorLifetime lifetime, CallerLocation caller)
    {
        Check(nameof(Broadcast), tensor);
        CollectiveArguments.CheckRank(this, nameof(root), root);
        long bytes = TensorMemory.ByteLength(tensor);
        AddVolume(Rank == root ? bytes : 0, Rank == root ? 0 : bytes);
        Func<string> signature = CollectiveSignature.Of(tensor, $", from rank {root}");
        CollectiveCall call = Begin(new(CollectiveKind.Broadcast, signature, bytes, lifetime, caller));
        return WorkOf(call, communicator.Broadcast(call, tensor, root), tensor);
    }

    private CollectiveWork LaunchAllToAll(Tensor input, TensorLifetime lifetime, CallerLocation caller)
    {
        Check(nameof(AllToAll), input);
        CollectiveArguments.CheckSlices(this, nameof(AllToAll), input);
        Tensor output = empty(CollectiveSignature.Shape(input), dtype: input.dtype, device: input.device);
        IReadOnlyList<long> counts = Repeated(input.NumberOfElements / Size);
        CollectiveCall call = BeginAllToAll(
            input,
            output,
            counts[Rank],
            CollectiveSignature.Of(input),
            lifetime,
            caller
        );
        return WorkOf(call, communicator.AllToAll(call, input, counts, output, counts), output);
    }

    private CollectiveWork LaunchAllToAllUneven(
        Tensor input,
        IReadOnlyList<long> sendCounts,
        IReadOnlyList<long> receiveCounts,
        TensorLifetime lifetime,
        CallerLocation caller
    )
    {
        Check(nameof(AllToAllUneven), input);
        CheckCounts(nameof(AllToAllUneven), input.NumberOfElements, sendCounts, holdsAllParts: true);
        CheckCounts(nameof(AllToAllUneven), sendCounts[Rank], receiveCounts, holdsAllParts: false);
        Tensor output = empty([receiveCounts.Sum()], dtype: input.dtype, device: input.device);
        CollectiveCall call = BeginAllToAll(
            input,
            output,
            sendCounts[Rank],
            // Counts differ from rank to rank, so ranks agree about the type only.
            CollectiveSignature.Of(input.dtype),
            lifetime,
            caller
        );
        return WorkOf(call, communicator.AllToAll(call, input, sendCounts, output, receiveCounts), output);
    }

    private CollectiveCall BeginAllToAll(
        Tensor input,
        Tensor output,
        long ownElements,
        Func<string> signature,
        TensorLifetime lifetime,
        CallerLocation caller
    )
    {
        long bytes = TensorMemory.ByteLength(input),
            ownBytes = ownElements * input.ElementSize;
        AddVolume(bytes - ownBytes, TensorMemory.ByteLength(output) - ownBytes);
        return Begin(new(CollectiveKind.AllToAll, signature, bytes, lifetime, caller));
    }

    private CollectiveWork LaunchSend(Tensor tensor, int peer, TensorLifetime lifetime, CallerLocation caller)
    {
        Check(nameof(Send), tensor);
        CollectiveArguments.CheckPeer(this, peer);
        long bytes = TensorMemory.ByteLength(tensor);
        AddVolume(bytes, 0);
        Func<string> signature = CollectiveSignature.Of(tensor, $", to rank {peer}");
        CollectiveCall call = Begin(new(CollectiveKind.Send, signature, bytes, lifetime, caller, peer));
        return WorkOf(call, communicator.Send(call, tensor, peer), null);
    }

    private CollectiveWork LaunchReceive(Tensor tensor, int peer, TensorLifetime lifetime, CallerLocation caller)
    {
        Check(nameof(Receive), tensor);
        CollectiveArguments.CheckPeer(this, peer);
        long bytes = TensorMemory.ByteLength(tensor);
        AddVolume(0, bytes);
        Func<string> signature = CollectiveSignature.Of(tensor, $", from rank {peer}");
        CollectiveCall call = Begin(new(CollectiveKind.Receive, signature, bytes, lifetime, caller, peer));
        return WorkOf(call, communicator.Receive(call, tensor, peer), tensor);
    }

    private CollectiveWork LaunchBarrier(TensorLifetime lifetime, CallerLocation caller)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        CollectiveCall call = Begin(new(CollectiveKind.Barrier, CollectiveSignature.Nothing, 0, lifetime, caller));
        return WorkOf(call, communicator.Barrier(call), null);
    }

    /// <summary>
    /// Numbers a collective and reports it to the monitor; where collectives are checked, compares it among the ranks
    /// first. A group of one rank reports nothing.
    /// </summary>
    private CollectiveCall Begin(in CollectiveLaunch launch)
    {
        if (Size == 1)
            return CollectiveCall.None;
        var call = new CollectiveCall(launch.Signature, launch.Caller)
        {
            GroupId = Id,
            GroupName = Name,
            Members = Members,
            Number = launch.Peer is int peer ? NextMessage(launch.Kind, peer) : ++collectives,
            Kind = launch.Kind,
            Bytes = launch.Bytes,
            Activity = Monitor.Activity,
            Lifetime = launch.Lifetime,
        };
        Monitor.Enqueue(call);
        if (Monitor.ChecksCollectives && launch.Peer is null)
            CollectiveCheck.Run(communicator, call);
        return call;
    }

    private CollectiveWork WorkOf(CollectiveCall call, ITransfer transfer, Tensor? result) =>
        new(Size == 1 ? null : call, transfer, Monitor, result);

    private long NextMessage(CollectiveKind kind, int peer)
    {
        messageNumbers.TryGetValue((kind, peer), out long last);
        return messageNumbers[(kind, peer)] = last + 1;
    }

    private void Check(string collective, Tensor tensor)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        CollectiveArguments.CheckTensor(this, communicator, collective, tensor);
    }

    private void CheckCounts(string collective, long elements, IReadOnlyList<long> counts, bool holdsAllParts) =>
        CollectiveArguments.CheckCounts(this, collective, elements, counts, holdsAllParts);

    private void AddVolume(long sent, long received)
    {
        if (Size > 1)
            volume += new CommunicationVolume(sent, received);
    }

    private long[] Repeated(long count)
    {
        var counts = new long[Size];
        Array.Fill(counts, count);
        return counts;
    }
}
