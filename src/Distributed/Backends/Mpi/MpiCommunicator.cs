using System.Runtime.InteropServices;
using LongNet.Core.Native;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Backends.Mpi;

/// <summary>
/// The ranks of an MPI communicator, for CPU tensors. MPI transfers bytes only: reductions are an exchange of bytes and
/// a sum on this processor (<see cref="LocalReduction"/>), which gives every rank and every MPI the same bits.
/// </summary>
/// <remarks>
/// A collective is an iterator over MPI requests. The code up to a <c>yield return</c> runs when the request before it
/// is done. It runs under the lock of <see cref="MpiProgress"/>, on the thread that advances the transfer: the one that
/// started it, one that waits, or the progress thread. So iterators use this object's fields without another lock, must
/// not wait, and must not touch what the calling thread uses, such as dispose scopes.
/// </remarks>
internal sealed class MpiCommunicator : ICommunicator
{
    /// <summary>Largest message by default, in bytes. MPI counts bytes in an int.</summary>
    public const int DefaultLargestMessage = 1 << 30;

    // Memory for the other ranks' parts of a reduction: large enough to hide latency, small enough for the last-level
    // cache.
    private const int ScratchBytes = 8 << 20;

    // Up to this size, one exchange of complete tensors is quicker than two exchanges of parts.
    private const int SmallReductionBytes = 4096;

    // Messages of Send and exchanges of collectives run between the same ranks at the same time.
    private const int MessageTag = 0,
        ExchangeTag = 1;

    private readonly MpiSession session;
    private readonly MpiNative native;
    private readonly TransferQueue queue = new();
    private readonly string name;
    private readonly nint communicator;
    private readonly int largestMessage;
    private readonly bool ownsCommunicator;
    private nint scratch;
    private long scratchLength;
    private bool disposed;

    /// <summary>All ranks of the job.</summary>
    /// <param name="largestMessage">Most bytes per MPI call.</param>
    public MpiCommunicator(MpiSession session, string name, int largestMessage)
        : this(session, name, session.Native.Abi.World, ownsCommunicator: false, largestMessage) { }

    private MpiCommunicator(
        MpiSession session,
        string name,
        nint communicator,
        bool ownsCommunicator,
        int largestMessage
    )
    {
        this.session = session;
        native = session.Native;
        this.name = name;
        this.communicator = communicator;
        this.ownsCommunicator = ownsCommunicator;
        this.largestMessage = largestMessage;
        Rank = native.Rank(communicator);
        Size = native.Size(communicator);
        Members = native.AllGather<int>(communicator, name, [native.Rank(native.Abi.World)]);
    }

    ~MpiCommunicator() => FreeScratch();

    public int Rank { get; }

    public int Size { get; }

    public IReadOnlyList<int> Members { get; }

    public string SupportedDevices => "CPU";

    public bool Supports(Tensor tensor) => TensorMemory.IsDirect(tensor);

    public ITransfer AllGather(CollectiveCall call, Tensor? own, Tensor all, IReadOnlyList<long> counts) =>
        Enqueue(
            call,
            Gather(own is null ? 0 : TensorMemory.Address(own), TensorMemory.Address(all), Bytes(counts, all)),
            own,
            all
        );

    public ITransfer ReduceScatter(
        CollectiveCall call,
        Tensor input,
        Tensor output,
        IReadOnlyList<long> counts,
        ReduceOperation operation
    ) =>
        Enqueue(
            call,
            Reduce(
                TensorMemory.Address(input),
                TensorMemory.Address(output),
                [.. counts],
                (int)input.ElementSize,
                input.dtype,
                operation
            ),
            input,
            output
        );

    public ITransfer AllReduce(CollectiveCall call, Tensor tensor, ReduceOperation operation)
    {
        nint address = TensorMemory.Address(tensor);
        int size = (int)tensor.ElementSize;
        long elements = tensor.NumberOfElements;
        return Enqueue(
            call,
            elements * size <= SmallReductionBytes
                ? ReduceSmall(address, elements, size, tensor.dtype, operation)
                : ReduceEverywhere(address, elements, size, tensor.dtype, operation),
            tensor
        );
    }

    public ITransfer Broadcast(CollectiveCall call, Tensor tensor, int root) =>
        Enqueue(call, Broadcast(TensorMemory.Address(tensor), TensorMemory.ByteLength(tensor), root), tensor);

    public ITransfer AllToAll(
        CollectiveCall call,
        Tensor input,
        IReadOnlyList<long> sendCounts,
        Tensor output,
        IReadOnlyList<long> receiveCounts
    ) =>
        Enqueue(
            call,
            AllToAll(
                TensorMemory.Address(input),
                Bytes(sendCounts, input),
                TensorMemory.Address(output),
                Bytes(receiveCounts, output)
            ),
            input,
            output
        );

    // Every message has a queue of its own: a rank may wait for one message before it sends another.
    public ITransfer Send(CollectiveCall call, Tensor tensor, int peer)
    {
        nint address = TensorMemory.Address(tensor);
        return Enqueue(
            new TransferQueue(),
            call,
            Chunks(TensorMemory.ByteLength(tensor), (start, bytes) =>
                native.StartSend(communicator, name, address + start, bytes, peer, MessageTag)
            ),
            tensor
        );
    }

    public ITransfer Receive(CollectiveCall call, Tensor tensor, int peer)
    {
        nint address = TensorMemory.Address(tensor);
        return Enqueue(
            new TransferQueue(),
            call,
            Chunks(TensorMemory.ByteLength(tensor), (start, bytes) =>
                native.StartReceive(communicator, name, address + start, bytes, peer, MessageTag)
            ),
            tensor
        );
    }

    public ITransfer Barrier(CollectiveCall call)
    {
        return Enqueue(call, Request());

        IEnumerable<nint> Request()
        {
            yield return native.StartBarrier(communicator, name);
        }
    }

    public ICommunicator Split(CollectiveCall call, int color, int key, string name)
    {
        session.Progress.Drain(queue);
        session.Monitor.Start(call);
        nint made = native.Split(communicator, color, key, this.name);
        ICommunicator result =
            native.Size(made) > 1
                ? new MpiCommunicator(session, name, made, ownsCommunicator: true, largestMessage)
                : new SingleRankCommunicator(Members[Rank]);
        if (result is SingleRankCommunicator)
            native.Free(made, name);
        session.Monitor.Complete(call);
        return result;
    }

    /// <summary>Waits for the collectives that were started. Collective, unless MPI has already ended.</summary>
    public void Dispose()
    {
        if (disposed)
            return;
        disposed = true;
        if (session.IsActive)
        {
            session.Progress.Drain(queue);
            if (ownsCommunicator)
                native.Free(communicator, name);
        }

        FreeScratch();
        GC.SuppressFinalize(this);
    }

    private MpiTransfer Enqueue(
        CollectiveCall call,
        IEnumerable<nint> requests,
        params ReadOnlySpan<Tensor?> tensors
    ) => Enqueue(queue, call, requests, tensors);

    private MpiTransfer Enqueue(
        TransferQueue queue,
        CollectiveCall call,
        IEnumerable<nint> requests,
        params ReadOnlySpan<Tensor?> tensors
    )
    {
        ObjectDisposedException.ThrowIf(!session.IsActive, session);
        return session.Progress.Enqueue(
            queue,
            new MpiTransfer(session.Progress, call, session.Monitor, requests, tensors)
        );
    }

    private static long[] Bytes(IReadOnlyList<long> counts, Tensor tensor)
    {
        long size = tensor.ElementSize;
        var bytes = new long[counts.Count];
        for (int rank = 0; rank < bytes.Length; rank++)
            bytes[rank] = counts[rank] * size;
        return bytes;
    }

    /// <param name="own">Address of this rank's part; 0 where it already lies in its place.</param>
    private IEnumerable<nint> Gather(nint own, nint all, long[] bytes)
    {
        long total = bytes.Sum();
        if (total > largestMessage)
        {
            // Displacements within one message are ints too. Broadcasts into place need no displacements and no scratch
            // memory.
            nint start = all;
            for (int root = 0; root < Size; root++)
            {
                if (root == Rank && own != 0)
                    Copy(own, start, bytes[root]);
                foreach (nint request in Broadcast(start, bytes[root], root))
                    yield return request;
                start += (nint)bytes[root];
            }
        }
        else if (Size == 2)
        {
            // The libraries' non-blocking collectives take up to 1.5 times as long as two messages.
            var sources = new nint[Size];
            var sent = new long[Size];
            nint[] targets = Starts(all, bytes);
            Array.Fill(sources, own == 0 ? targets[Rank] : own);
            Array.Fill(sent, bytes[Rank]);
            foreach (nint request in Exchange(sources, sent, targets, bytes))
                yield return request;
        }
        else if (total > 0)
        {
            int[] counts = GC.AllocateUninitializedArray<int>(Size, pinned: true),
                starts = GC.AllocateUninitializedArray<int>(Size, pinned: true);
            int start = 0;
            for (int rank = 0; rank < Size; rank++)
            {
                counts[rank] = (int)bytes[rank];
                starts[rank] = start;
                start += counts[rank];
            }

            yield return native.StartAllGather(communicator, name, own, counts[Rank], all, counts, starts);
            GC.KeepAlive(counts);
            GC.KeepAlive(starts);
        }
    }

    private IEnumerable<nint> Broadcast(nint address, long bytes, int root)
    {
        for (long start = 0; start < bytes; start += largestMessage)
            yield return native.StartBroadcast(
                communicator,
                name,
                address + (nint)start,
                (int)Math.Min(largestMessage, bytes - start),
                root
            );
    }

    // All messages are started before the first is waited for.
    private IEnumerable<nint> Chunks(long bytes, Func<nint, int, nint> start)
    {
        var requests = new List<nint>();
        // An empty tensor is one message: the peer waits for it.
        long done = 0;
        do
        {
            int length = (int)Math.Min(largestMessage, bytes - done);
            requests.Add(start((nint)done, length));
            done += length;
        } while (done < bytes);
        foreach (nint request in requests)
            yield return request;
    }

    private IEnumerable<nint> AllToAll(nint input, long[] sent, nint output, long[] received) =>
        Exchange(Starts(input, sent), sent, Starts(output, received), received);

    private IEnumerable<nint> Exchange(nint[] sources, long[] sent, nint[] targets, long[] received)
    {
        // Starting a long message moves none of its bytes: MPI moves them in later calls, once both ranks have made
        // one. Copying the own part before such a call would delay both. So the copy waits until the first message is
        // done; later ones are still in flight then.
        bool copied = sources[Rank] == targets[Rank];
        foreach (nint request in StartExchange(sources, sent, targets, received))
        {
            yield return request;
            if (!copied)
                Copy(sources[Rank], targets[Rank], sent[Rank]);
            copied = true;
        }

        if (!copied)
            Copy(sources[Rank], targets[Rank], sent[Rank]);
    }

    private nint[] Starts(nint first, long[] bytes)
    {
        var starts = new nint[Size];
        for (int rank = 0; rank < Size; rank++)
        {
            starts[rank] = first;
            first += (nint)bytes[rank];
        }

        return starts;
    }

    // Every rank begins with its neighbour, so that not all ranks send to the same one. Own parts are not exchanged.
    private List<nint> StartExchange(nint[] sources, long[] sent, nint[] targets, long[] received)
    {
        var requests = new List<nint>(2 * Size);
        for (int distance = 1; distance < Size; distance++)
        {
            int from = (Rank + Size - distance) % Size;
            for (long start = 0; start < received[from]; start += largestMessage)
            {
                requests.Add(
                    native.StartReceive(
                        communicator,
                        name,
                        targets[from] + (nint)start,
                        (int)Math.Min(largestMessage, received[from] - start),
                        from,
                        ExchangeTag
                    )
                );
            }
        }

        for (int distance = 1; distance < Size; distance++)
        {
            int to = (Rank + distance) % Size;
            for (long start = 0; start < sent[to]; start += largestMessage)
            {
                requests.Add(
                    native.StartSend(
                        communicator,
                        name,
                        sources[to] + (nint)start,
                        (int)Math.Min(largestMessage, sent[to] - start),
                        to,
                        ExchangeTag
                    )
                );
            }
        }

        return requests;
    }

    private IEnumerable<nint> ReduceSmall(
        nint address,
        long elements,
        int elementSize,
        ScalarType dtype,
        ReduceOperation operation
    )
    {
        long bytes = elements * elementSize;
        if (bytes == 0)
            yield break;
        nint all = Scratch(bytes * Size);
        var allBytes = new long[Size];
        Array.Fill(allBytes, bytes);
        foreach (nint request in Gather(address, all, allBytes))
            yield return request;
        LocalReduction.Run(dtype, operation, Starts(all, allBytes), address, elements);
    }

    private IEnumerable<nint> ReduceEverywhere(
        nint address,
        long elements,
        int elementSize,
        ScalarType dtype,
        ReduceOperation operation
    )
    {
        // A multiple of the group's size, so that a rank's parts of all slices are an even split of the tensor.
        long slice = Math.Max(1, Math.Min(ScratchBytes, largestMessage) / elementSize / Size) * Size;
        for (long start = 0; start < elements; start += slice)
        {
            nint first = address + (nint)(start * elementSize);
            long[] counts = ProcessGroup.EvenSplit(Math.Min(slice, elements - start), Size);
            long[] bytes = [.. counts.Select(count => count * elementSize)];
            foreach (nint request in Reduce(first, Starts(first, bytes)[Rank], counts, elementSize, dtype, operation))
                yield return request;
            foreach (nint request in Gather(0, first, bytes))
                yield return request;
        }
    }

    /// <param name="destination">Address for this rank's part; may be its place in <paramref name="input"/>.</param>
    private IEnumerable<nint> Reduce(
        nint input,
        nint destination,
        long[] counts,
        int elementSize,
        ScalarType dtype,
        ReduceOperation operation
    )
    {
        // Parts are exchanged in pieces, so that the other ranks' pieces fit the scratch memory for any tensor size.
        int piece = Math.Max(1, Math.Min(ScratchBytes, largestMessage) / elementSize / Size);
        long longest = counts.Max();
        nint[] starts = Starts(input, [.. counts.Select(count => count * elementSize)]);
        long[] sent = new long[Size],
            received = new long[Size];
        var sources = new nint[Size];
        for (long done = 0; done < longest; done += piece)
        {
            int own = Piece(counts[Rank], done);
            for (int rank = 0; rank < Size; rank++)
            {
                sources[rank] = starts[rank] + (nint)(done * elementSize);
                sent[rank] = rank == Rank ? 0 : (long)Piece(counts[rank], done) * elementSize;
                received[rank] = rank == Rank ? 0 : (long)own * elementSize;
            }

            nint[] targets = Starts(Scratch((long)Math.Min(piece, longest) * elementSize * Size), received);
            foreach (nint request in StartExchange(sources, sent, targets, received))
                yield return request;
            targets[Rank] = sources[Rank];
            if (own > 0)
                LocalReduction.Run(dtype, operation, targets, destination + (nint)(done * elementSize), own);
        }

        int Piece(long count, long done) => (int)Math.Clamp(count - done, 0, piece);
    }

    // Kept between calls, because new memory costs page faults each time. One collective uses it at a time.
    private nint Scratch(long bytes)
    {
        if (bytes > scratchLength)
        {
            FreeScratch();
            unsafe
            {
                scratch = (nint)NativeMemory.Alloc((nuint)bytes);
            }

            scratchLength = bytes;
        }

        return scratch;
    }

    private unsafe void FreeScratch()
    {
        NativeMemory.Free((void*)scratch);
        scratch = 0;
        scratchLength = 0;
    }

    private static unsafe void Copy(nint source, nint target, long bytes) =>
        Buffer.MemoryCopy((void*)source, (void*)target, bytes, bytes);
}
