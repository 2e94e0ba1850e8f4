using System.Runtime.InteropServices;
using LongNet.Core.Native;
using LongNet.Distributed.Solo;
using static TorchSharp.torch;

namespace LongNet.Distributed.Mpi;

/// <summary>
/// Ranks joined by an MPI communicator, for CPU tensors. MPI moves bytes only: reductions are an all-to-all of bytes and a
/// sum on this processor (<see cref="LocalReduction"/>), which gives every rank and every MPI the same bits.
/// </summary>
internal sealed unsafe class MpiProcessGroup : ProcessGroup
{
    /// <summary>Largest message where the caller does not choose: MPI counts bytes in an int.</summary>
    public const int DefaultLargestMessage = 1 << 30;

    // Others' parts of a reduction at a time: large enough to hide latency, small enough for the last-level cache.
    private const int ScratchBytes = 8 << 20;

    // Below this, one exchange of everything is quicker than two of parts.
    private const int SmallReductionBytes = 4096;

    private readonly MpiSession session;
    private readonly MpiNative native;
    private readonly nint communicator;
    private readonly int largestMessage;
    private readonly bool ownsCommunicator;
    private byte* scratch;
    private long scratchLength;
    private CommunicationVolume volume;
    private bool disposed;

    /// <param name="largestMessage">Most bytes per MPI call.</param>
    public MpiProcessGroup(MpiSession session, string name, int largestMessage = DefaultLargestMessage)
        : this(session, name, session.Native.Abi.World, ownsCommunicator: false, largestMessage)
    {
    }

    private MpiProcessGroup(MpiSession session, string name, nint communicator, bool ownsCommunicator, int largestMessage)
    {
        this.session = session;
        native = session.Native;
        Name = name;
        this.communicator = communicator;
        this.ownsCommunicator = ownsCommunicator;
        this.largestMessage = largestMessage;
        Rank = native.Rank(communicator);
        Size = native.Size(communicator);
    }

    ~MpiProcessGroup() => NativeMemory.Free(scratch);

    public override string Name { get; }

    public override int Rank { get; }

    public override int Size { get; }

    public override CommunicationVolume Volume => volume;

    public override Tensor AllGather(Tensor input)
    {
        Begin(nameof(AllGather), input);
        Tensor output = empty([Size, .. input.shape], dtype: input.dtype);
        long bytes = TensorMemory.ByteLength(input);
        byte* own = (byte*)TensorMemory.Address(input), all = (byte*)TensorMemory.Address(output);
        if (bytes > 0 && bytes <= largestMessage / Size)
            native.AllGather(communicator, Name, own, (int)bytes, all);
        else if (bytes > 0)
            GatherByBroadcasts(own, all, Enumerable.Repeat(bytes, Size));
        GC.KeepAlive(input);
        GC.KeepAlive(output);
        Count(bytes, (Size - 1) * bytes);
        return output;
    }

    public override Tensor AllGatherUnequal(Tensor input, IReadOnlyList<long> counts)
    {
        Begin(nameof(AllGatherUnequal), input);
        CollectiveArguments.CheckCounts(this, nameof(AllGatherUnequal), input.NumberOfElements, counts, whole: false);
        Tensor output = empty([counts.Sum()], dtype: input.dtype);
        GatherUnequal((byte*)TensorMemory.Address(input), (byte*)TensorMemory.Address(output), counts, input.ElementSize);
        GC.KeepAlive(input);
        GC.KeepAlive(output);
        return output;
    }

    public override Tensor ReduceScatterUnequal(Tensor input, IReadOnlyList<long> counts, ReduceOperation operation = ReduceOperation.Sum)
    {
        Begin(nameof(ReduceScatterUnequal), input);
        CollectiveArguments.CheckCounts(this, nameof(ReduceScatterUnequal), input.NumberOfElements, counts, whole: true);
        CollectiveArguments.CheckReduction(this, nameof(ReduceScatterUnequal), input.dtype, operation);
        Tensor output = empty([counts[Rank]], dtype: input.dtype);
        ReduceScatter(
            (byte*)TensorMemory.Address(input), (byte*)TensorMemory.Address(output), counts, (int)input.ElementSize, input.dtype, operation);
        GC.KeepAlive(input);
        GC.KeepAlive(output);
        return output;
    }

    public override void AllReduce(Tensor tensor, ReduceOperation operation = ReduceOperation.Sum)
    {
        Begin(nameof(AllReduce), tensor);
        CollectiveArguments.CheckReduction(this, nameof(AllReduce), tensor.dtype, operation);
        byte* address = (byte*)TensorMemory.Address(tensor);
        int elementSize = (int)tensor.ElementSize;
        long elements = tensor.NumberOfElements;
        if (elements * elementSize <= SmallReductionBytes)
        {
            ReduceSmall(address, elements, elementSize, tensor.dtype, operation);
        }
        else
        {
            // A multiple of the group's size, so that the slices' parts add up to the parts of the whole.
            long slice = Math.Max(1, Math.Min(ScratchBytes, largestMessage) / elementSize / Size) * Size;
            for (long start = 0; start < elements; start += slice)
            {
                byte* first = address + start * elementSize;
                long[] counts = EvenParts(Math.Min(slice, elements - start));
                byte* own = first + counts.Take(Rank).Sum() * elementSize;
                ReduceScatter(first, own, counts, elementSize, tensor.dtype, operation);
                GatherUnequal(null, first, counts, elementSize);
            }
        }

        GC.KeepAlive(tensor);
    }

    public override void Broadcast(Tensor tensor, int root)
    {
        Begin(nameof(Broadcast), tensor);
        CollectiveArguments.CheckRoot(this, root);
        long bytes = TensorMemory.ByteLength(tensor);
        BroadcastBytes((byte*)TensorMemory.Address(tensor), bytes, root);
        GC.KeepAlive(tensor);
        if (Size > 1)
            Count(Rank == root ? bytes : 0, Rank == root ? 0 : bytes);
    }

    public override void Barrier()
    {
        CheckUsable();
        native.Barrier(communicator, Name);
    }

    public override ProcessGroup Split(int color, int key, string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        CheckUsable();
        nint made = native.Split(communicator, color, key, Name);
        if (native.Size(made) > 1)
            return new MpiProcessGroup(session, name, made, ownsCommunicator: true, largestMessage);
        native.Free(made, name);
        return new SoloProcessGroup(name);
    }

    /// <summary>Collective, unless MPI has already ended.</summary>
    protected override void Dispose(bool disposing)
    {
        if (disposed)
        {
            base.Dispose(disposing);
            return;
        }

        disposed = true;
        NativeMemory.Free(scratch);
        scratch = null;
        if (ownsCommunicator && session.IsActive)
            native.Free(communicator, Name);
        base.Dispose(disposing);
    }

    private void Begin(string collective, Tensor tensor)
    {
        CheckUsable();
        CollectiveArguments.CheckDirect(this, collective, tensor);
    }

    private void CheckUsable() => ObjectDisposedException.ThrowIf(disposed || !session.IsActive, this);

    private void Count(long sent, long received)
    {
        if (Size > 1)
            volume += new CommunicationVolume(sent, received);
    }

    private long[] EvenParts(long elements)
    {
        var counts = new long[Size];
        for (int rank = 0; rank < Size; rank++)
            counts[rank] = elements / Size + (rank < elements % Size ? 1 : 0);
        return counts;
    }

    /// <param name="own">This rank's part; null where it already lies in its place.</param>
    private void GatherUnequal(byte* own, byte* all, IReadOnlyList<long> counts, long elementSize)
    {
        long total = counts.Sum() * elementSize, ownBytes = counts[Rank] * elementSize;
        if (total > largestMessage)
        {
            GatherByBroadcasts(own, all, counts.Select(count => count * elementSize));
        }
        else if (total > 0)
        {
            Span<int> bytes = stackalloc int[Size], starts = stackalloc int[Size];
            int start = 0;
            for (int rank = 0; rank < Size; rank++)
            {
                bytes[rank] = (int)(counts[rank] * elementSize);
                starts[rank] = start;
                start += bytes[rank];
            }

            native.AllGather(communicator, Name, own, bytes[Rank], all, bytes, starts);
        }

        Count(ownBytes, total - ownBytes);
    }

    // Displacements in one message are ints too; broadcasts straight into place need none, and no scratch memory.
    private void GatherByBroadcasts(byte* own, byte* all, IEnumerable<long> parts)
    {
        int root = 0;
        foreach (long bytes in parts)
        {
            if (root == Rank && own is not null)
                Buffer.MemoryCopy(own, all, bytes, bytes);
            BroadcastBytes(all, bytes, root);
            all += bytes;
            root++;
        }
    }

    private void BroadcastBytes(byte* address, long bytes, int root)
    {
        for (long start = 0; start < bytes; start += largestMessage)
            native.Broadcast(communicator, Name, address + start, (int)Math.Min(largestMessage, bytes - start), root);
    }

    private void ReduceSmall(byte* address, long elements, int elementSize, ScalarType dtype, ReduceOperation operation)
    {
        int bytes = (int)elements * elementSize;
        if (bytes > 0)
        {
            byte* all = Scratch((long)bytes * Size);
            native.AllGather(communicator, Name, address, bytes, all);
            Span<nint> parts = stackalloc nint[Size];
            for (int rank = 0; rank < Size; rank++)
                parts[rank] = (nint)(all + (long)rank * bytes);
            LocalReduction.Run(dtype, operation, parts, address, elements);
        }

        // Counted as the reduce-scatter and all-gather it stands for, so that the volume follows one rule for all sizes.
        long own = (elements / Size + (Rank < elements % Size ? 1 : 0)) * elementSize;
        Count(bytes, (Size - 1) * own + bytes - own);
    }

    /// <param name="destination">Takes this rank's part; may be its place in <paramref name="input"/>.</param>
    private void ReduceScatter(
        byte* input, byte* destination, IReadOnlyList<long> counts, int elementSize, ScalarType dtype, ReduceOperation operation)
    {
        long total = counts.Sum(), own = counts[Rank];
        // Parts pass piece by piece, so that the others' pieces fit the scratch memory whatever the size of the tensor.
        int piece = Math.Max(1, Math.Min(ScratchBytes, largestMessage) / elementSize / Size);
        // Where ints cannot say where the parts of the tensor begin, the pieces to send are laid out anew.
        bool staged = total * elementSize > largestMessage;
        Span<int> sendBytes = stackalloc int[Size], sendStarts = stackalloc int[Size];
        Span<int> receiveBytes = stackalloc int[Size], receiveStarts = stackalloc int[Size];
        Span<nint> parts = stackalloc nint[Size];
        long longest = counts.Max();
        for (long done = 0; done < longest; done += piece)
        {
            int ownPiece = Piece(own);
            byte* received = Scratch((long)Math.Min(piece, longest) * elementSize * Size * (staged ? 2 : 1));
            byte* staging = received + (long)ownPiece * elementSize * Size;
            int receiveStart = 0, stagingStart = 0;
            long start = 0;
            for (int rank = 0; rank < Size; rank++)
            {
                bool isOwn = rank == Rank;
                sendBytes[rank] = isOwn ? 0 : Piece(counts[rank]) * elementSize;
                byte* source = input + (start + done) * elementSize;
                if (staged)
                {
                    sendStarts[rank] = stagingStart;
                    Buffer.MemoryCopy(source, staging + stagingStart, sendBytes[rank], sendBytes[rank]);
                    stagingStart += sendBytes[rank];
                }
                else
                {
                    sendStarts[rank] = sendBytes[rank] == 0 ? 0 : (int)((start + done) * elementSize);
                }

                receiveBytes[rank] = isOwn ? 0 : ownPiece * elementSize;
                receiveStarts[rank] = receiveStart;
                parts[rank] = isOwn ? (nint)source : (nint)(received + receiveStart);
                receiveStart += receiveBytes[rank];
                start += counts[rank];
            }

            native.AllToAll(
                communicator, Name, staged ? staging : input, sendBytes, sendStarts, received, receiveBytes, receiveStarts);
            if (ownPiece > 0)
                LocalReduction.Run(dtype, operation, parts, destination + done * elementSize, ownPiece);

            int Piece(long count) => (int)Math.Clamp(count - done, 0, piece);
        }

        Count((total - own) * elementSize, (Size - 1) * own * elementSize);
    }

    // Kept between calls: fresh memory would be paid for in page faults each time.
    private byte* Scratch(long bytes)
    {
        if (bytes > scratchLength)
        {
            NativeMemory.Free(scratch);
            scratch = null;
            scratchLength = 0;
            scratch = (byte*)NativeMemory.Alloc((nuint)bytes);
            scratchLength = bytes;
        }

        return scratch;
    }
}
