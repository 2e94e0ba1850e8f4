using System.Runtime.CompilerServices;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// An ordered set of ranks that communicate. Every method marked Collective must be called by all ranks of the group,
/// in the same order, with matching shapes and dtypes. CPU tensors travel by MPI, CUDA tensors by NCCL.
/// </summary>
/// <remarks>
/// <para>
/// Methods named Start… return at once and run in the background, one after another in the order in which they were
/// started; the others wait. Tensors are float64, float32, float16, bfloat16, int64, bytes or bool, and contiguous.
/// </para>
/// <para>
/// Volume rule (P ranks): all-gather sends the own part once and receives the others' parts; reduce-scatter sends the
/// parts of the others and receives one own-sized part per other rank; all-reduce counts as reduce-scatter then
/// all-gather; broadcast sends at the root and receives elsewhere; all-to-all, send and receive count what leaves and
/// what comes. A group of one rank counts nothing.
/// </para>
/// <para>
/// Reductions on the CPU are made in rank order and round once, so every backend and every MPI gives the same bits; on
/// GPUs NCCL chooses the order for float32 and float64. 16-bit types are accumulated in float32 on both.
/// </para>
/// <para>
/// CUDA tensors of a rank lie on one GPU, and no two ranks share one. Where ranks belong to several groups, they start
/// the groups' collectives of CUDA tensors in the same order. A Start… of these returns when the collective is on
/// NCCL's stream, which for the first of a group is when all ranks have come.
/// </para>
/// <para>Not thread-safe: one thread at a time may use a group.</para>
/// </remarks>
public sealed class ProcessGroup : IDisposable
{
    private readonly ICommunicator communicator;
    private readonly Dictionary<(CollectiveKind Kind, int Peer), long> messages = [];
    private CommunicationVolume volume;
    private long collectives;
    private int splits;
    private bool disposed,
        waits;

    internal ProcessGroup(string id, string name, ICommunicator communicator, CollectiveMonitor monitor)
    {
        Id = id;
        Name = name;
        this.communicator = communicator;
        Monitor = monitor;
    }

    /// <summary>What the group is called in messages, e.g. "world" or "sequence".</summary>
    public string Name { get; }

    /// <summary>Identifies the group among all of the job; the same on all its ranks.</summary>
    public string Id { get; }

    /// <summary>This process's place in the group, 0 … <see cref="Size"/> − 1.</summary>
    public int Rank => communicator.Rank;

    /// <summary>Number of ranks in the group.</summary>
    public int Size => communicator.Size;

    /// <summary>World ranks of the group, in group order.</summary>
    public IReadOnlyList<int> Members => communicator.Members;

    /// <summary>
    /// What this process knows of the collectives of all its groups. Groups of one rank add nothing to it.
    /// </summary>
    public CollectiveMonitor Monitor { get; }

    /// <summary>What this rank has sent and received through this group since it was made.</summary>
    public CommunicationVolume Volume => volume;

    /// <summary>A group of one rank. Loads no MPI; every collective is a copy or nothing.</summary>
    /// <param name="name">What the group is called in messages.</param>
    public static ProcessGroup Solo(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        return new ProcessGroup("0", name, SingleRankCommunicator.Instance, new CollectiveMonitor());
    }

    /// <summary>Concatenates every rank's equally sized tensor. Collective.</summary>
    /// <param name="input">This rank's part, any shape, contiguous; the same element count and dtype on all ranks. Not
    /// disposed.</param>
    /// <returns>[<see cref="Size"/>, …input shape], parts in rank order. Owned by the caller.</returns>
    public Tensor AllGather(Tensor input, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        using Blocking waits = new(this);
        return StartAllGather(input, file, line).Result();
    }

    /// <inheritdoc cref="AllGather"/>
    /// <returns>The work whose result <see cref="AllGather"/> returns.</returns>
    public CollectiveWork StartAllGather(
        Tensor input,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        Check(nameof(AllGather), input);
        Tensor output = empty([Size, .. CollectiveSignature.Shape(input)], dtype: input.dtype, device: input.device);
        return StartAllGather(
            input,
            output,
            Repeated(input.NumberOfElements),
            CollectiveSignature.Of(input),
            file,
            line
        );
    }

    /// <summary>Concatenates parts of different lengths. Collective.</summary>
    /// <param name="input">This rank's part, [counts[Rank]], contiguous. Not disposed.</param>
    /// <param name="counts">Every rank's element count, the same list on all ranks; zeros allowed.</param>
    /// <returns>[Σ counts], parts in rank order. Owned by the caller.</returns>
    public Tensor AllGatherUneven(
        Tensor input,
        IReadOnlyList<long> counts,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        using Blocking waits = new(this);
        return StartAllGatherUneven(input, counts, file, line).Result();
    }

    /// <inheritdoc cref="AllGatherUneven"/>
    /// <returns>The work whose result <see cref="AllGatherUneven"/> returns.</returns>
    public CollectiveWork StartAllGatherUneven(
        Tensor input,
        IReadOnlyList<long> counts,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        Check(nameof(AllGatherUneven), input);
        CollectiveArguments.CheckCounts(this, nameof(AllGatherUneven), input.NumberOfElements, counts, whole: false);
        Tensor output = empty([counts.Sum()], dtype: input.dtype, device: input.device);
        return StartAllGather(input, output, counts, CollectiveSignature.Of(counts, input.dtype), file, line);
    }

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
    )
    {
        Check(nameof(StartAllGatherInPlace), all);
        CollectiveArguments.CheckCounts(this, nameof(StartAllGatherInPlace), all.NumberOfElements, counts, whole: true);
        return StartAllGather(null, all, counts, CollectiveSignature.Of(counts, all.dtype), file, line);
    }

    /// <summary>
    /// Sums equally shaped inputs over the ranks and leaves each rank its slice of the first dimension. Rounds once,
    /// with 16-bit types accumulated in float32. Collective.
    /// </summary>
    /// <param name="input">[<see cref="Size"/>, …], contiguous, the same shape on all ranks. Not disposed.</param>
    /// <returns>[…]: this rank's slice of the sum. Owned by the caller.</returns>
    public Tensor ReduceScatter(
        Tensor input,
        ReduceOperation operation = ReduceOperation.Sum,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        using Blocking waits = new(this);
        return StartReduceScatter(input, operation, file, line).Result();
    }

    /// <inheritdoc cref="ReduceScatter"/>
    /// <returns>The work whose result <see cref="ReduceScatter"/> returns.</returns>
    public CollectiveWork StartReduceScatter(
        Tensor input,
        ReduceOperation operation = ReduceOperation.Sum,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        Check(nameof(ReduceScatter), input);
        CollectiveArguments.CheckSlices(this, nameof(ReduceScatter), input);
        CollectiveArguments.CheckReduction(this, nameof(ReduceScatter), input.dtype, operation);
        Tensor output = empty(CollectiveSignature.Shape(input)[1..], dtype: input.dtype, device: input.device);
        return StartReduceScatter(
            input,
            output,
            Repeated(input.NumberOfElements / Size),
            operation,
            CollectiveSignature.Of(input, $", {CollectiveSignature.Term(operation)}"),
            file,
            line
        );
    }

    /// <summary>
    /// Sums equally shaped inputs over the ranks and leaves each rank its part. Rounds once, with 16-bit types
    /// accumulated in float32. Collective.
    /// </summary>
    /// <param name="input">[Σ counts], contiguous; the same counts on all ranks. Not disposed.</param>
    /// <param name="counts">Every rank's part's element count; zeros allowed.</param>
    /// <returns>[counts[Rank]]: this rank's part of the sum. Owned by the caller.</returns>
    public Tensor ReduceScatterUneven(
        Tensor input,
        IReadOnlyList<long> counts,
        ReduceOperation operation = ReduceOperation.Sum,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        using Blocking waits = new(this);
        return StartReduceScatterUneven(input, counts, operation, file, line).Result();
    }

    /// <inheritdoc cref="ReduceScatterUneven"/>
    /// <returns>The work whose result <see cref="ReduceScatterUneven"/> returns.</returns>
    public CollectiveWork StartReduceScatterUneven(
        Tensor input,
        IReadOnlyList<long> counts,
        ReduceOperation operation = ReduceOperation.Sum,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        Check(nameof(ReduceScatterUneven), input);
        CollectiveArguments.CheckCounts(this, nameof(ReduceScatterUneven), input.NumberOfElements, counts, whole: true);
        CollectiveArguments.CheckReduction(this, nameof(ReduceScatterUneven), input.dtype, operation);
        Tensor output = empty([counts[Rank]], dtype: input.dtype, device: input.device);
        return StartReduceScatter(
            input,
            output,
            counts,
            operation,
            CollectiveSignature.Of(counts, input.dtype, $", {CollectiveSignature.Term(operation)}"),
            file,
            line
        );
    }

    /// <summary>
    /// <see cref="StartReduceScatterUneven"/> in place: this rank's part of the sum takes its place in the tensor,
    /// whose other parts are left undefined. Collective.
    /// </summary>
    /// <param name="all">[Σ counts], contiguous, without history; the same counts on all ranks.</param>
    /// <param name="counts">Every rank's part's element count; zeros allowed.</param>
    /// <returns>The work, whose result is the tensor.</returns>
    public CollectiveWork StartReduceScatterInPlace(
        Tensor all,
        IReadOnlyList<long> counts,
        ReduceOperation operation = ReduceOperation.Sum,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        Check(nameof(StartReduceScatterInPlace), all);
        CollectiveArguments.CheckCounts(
            this,
            nameof(StartReduceScatterInPlace),
            all.NumberOfElements,
            counts,
            whole: true
        );
        CollectiveArguments.CheckReduction(this, nameof(StartReduceScatterInPlace), all.dtype, operation);
        long elements = counts[Rank],
            own = elements * all.ElementSize;
        Count(Bytes(all) - own, (Size - 1) * own);
        return Launch(
            CollectiveKind.ReduceScatter,
            CollectiveSignature.Of(counts, all.dtype, $", {CollectiveSignature.Term(operation)}"),
            all,
            all,
            file,
            line,
            call =>
            {
                using var scope = NewDisposeScope();
                return communicator.ReduceScatter(
                    call,
                    all,
                    all.view(-1).narrow(0, counts.Take(Rank).Sum(), elements),
                    counts,
                    operation
                );
            }
        );
    }

    /// <summary>
    /// Reduces in place; every rank ends with the same bits. 16-bit types are accumulated in float32. Collective.
    /// </summary>
    /// <param name="tensor">Contiguous, the same shape and dtype on all ranks.</param>
    public void AllReduce(
        Tensor tensor,
        ReduceOperation operation = ReduceOperation.Sum,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        using Blocking waits = new(this);
        StartAllReduce(tensor, operation, file, line).Wait();
    }

    /// <inheritdoc cref="AllReduce"/>
    /// <returns>The work, whose result is the tensor.</returns>
    public CollectiveWork StartAllReduce(
        Tensor tensor,
        ReduceOperation operation = ReduceOperation.Sum,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        Check(nameof(AllReduce), tensor);
        CollectiveArguments.CheckReduction(this, nameof(AllReduce), tensor.dtype, operation);
        long elements = tensor.NumberOfElements,
            size = tensor.ElementSize;
        long own = EvenSplit(elements, Size)[Rank];
        // As the reduce-scatter and all-gather that it stands for, whatever carries it.
        Count(elements * size, (Size - 1) * own * size + (elements - own) * size);
        return Launch(
            CollectiveKind.AllReduce,
            CollectiveSignature.Of(tensor, $", {CollectiveSignature.Term(operation)}"),
            tensor,
            tensor,
            file,
            line,
            call => communicator.AllReduce(call, tensor, operation)
        );
    }

    /// <summary>Overwrites the tensor with the root's, in place. Collective.</summary>
    /// <param name="tensor">Contiguous, the same shape and dtype on all ranks.</param>
    /// <param name="root">Group rank whose values all ranks take.</param>
    public void Broadcast(Tensor tensor, int root, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        using Blocking waits = new(this);
        StartBroadcast(tensor, root, file, line).Wait();
    }

    /// <inheritdoc cref="Broadcast"/>
    /// <returns>The work, whose result is the tensor.</returns>
    public CollectiveWork StartBroadcast(
        Tensor tensor,
        int root,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        Check(nameof(Broadcast), tensor);
        CollectiveArguments.CheckRank(this, nameof(root), root);
        long bytes = Bytes(tensor);
        Count(Rank == root ? bytes : 0, Rank == root ? 0 : bytes);
        return Launch(
            CollectiveKind.Broadcast,
            CollectiveSignature.Of(tensor, $", from rank {root}"),
            tensor,
            tensor,
            file,
            line,
            call => communicator.Broadcast(call, tensor, root)
        );
    }

    /// <summary>Sends slice j of the first dimension to rank j and takes one from everyone. Collective.</summary>
    /// <param name="input">[<see cref="Size"/>, …], contiguous, the same shape on all ranks. Not disposed.</param>
    /// <returns>[<see cref="Size"/>, …]: slice i came from rank i. Owned by the caller.</returns>
    public Tensor AllToAll(Tensor input, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        using Blocking waits = new(this);
        return StartAllToAll(input, file, line).Result();
    }

    /// <inheritdoc cref="AllToAll"/>
    /// <returns>The work whose result <see cref="AllToAll"/> returns.</returns>
    public CollectiveWork StartAllToAll(
        Tensor input,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        Check(nameof(AllToAll), input);
        CollectiveArguments.CheckSlices(this, nameof(AllToAll), input);
        IReadOnlyList<long> counts = Repeated(input.NumberOfElements / Size);
        return StartAllToAll(
            input,
            counts,
            empty(CollectiveSignature.Shape(input), dtype: input.dtype, device: input.device),
            counts,
            CollectiveSignature.Of(input),
            file,
            line
        );
    }

    /// <summary>Sends every rank a part of its own length. Collective.</summary>
    /// <param name="input">[Σ sendCounts], contiguous: the parts for the ranks, in order. Not disposed.</param>
    /// <param name="sendCounts">Elements for every rank; zeros allowed.</param>
    /// <param name="receiveCounts">Elements from every rank: what those ranks' sendCounts say of this one.</param>
    /// <returns>[Σ receiveCounts], in rank order. Owned by the caller.</returns>
    public Tensor AllToAllUneven(
        Tensor input,
        IReadOnlyList<long> sendCounts,
        IReadOnlyList<long> receiveCounts,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        using Blocking waits = new(this);
        return StartAllToAllUneven(input, sendCounts, receiveCounts, file, line).Result();
    }

    /// <inheritdoc cref="AllToAllUneven"/>
    /// <returns>The work whose result <see cref="AllToAllUneven"/> returns.</returns>
    public CollectiveWork StartAllToAllUneven(
        Tensor input,
        IReadOnlyList<long> sendCounts,
        IReadOnlyList<long> receiveCounts,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        Check(nameof(AllToAllUneven), input);
        CollectiveArguments.CheckCounts(this, nameof(AllToAllUneven), input.NumberOfElements, sendCounts, whole: true);
        CollectiveArguments.CheckCounts(this, nameof(AllToAllUneven), sendCounts[Rank], receiveCounts, whole: false);
        Tensor output = empty([receiveCounts.Sum()], dtype: input.dtype, device: input.device);
        // Counts differ from rank to rank, so ranks agree about the type only.
        return StartAllToAll(input, sendCounts, output, receiveCounts, CollectiveSignature.Of(input.dtype), file, line);
    }

    /// <summary>
    /// Sends a tensor to one rank, which must receive it. The peer's receives meet this rank's sends in order.
    /// </summary>
    /// <param name="tensor">Contiguous. Not disposed.</param>
    /// <param name="peer">Group rank that receives; not this one.</param>
    public void Send(Tensor tensor, int peer, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        using Blocking waits = new(this);
        StartSend(tensor, peer, file, line).Wait();
    }

    /// <inheritdoc cref="Send"/>
    /// <returns>The work; it has no result.</returns>
    public CollectiveWork StartSend(
        Tensor tensor,
        int peer,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        Check(nameof(Send), tensor);
        CollectiveArguments.CheckPeer(this, peer);
        Count(Bytes(tensor), 0);
        return Launch(
            CollectiveKind.Send,
            CollectiveSignature.Of(tensor, $", to rank {peer}"),
            tensor,
            null,
            file,
            line,
            call => communicator.Send(call, tensor, peer),
            peer
        );
    }

    /// <summary>Overwrites a tensor with the one that a rank sends.</summary>
    /// <param name="tensor">Contiguous, of the sender's size and dtype.</param>
    /// <param name="peer">Group rank that sends; not this one.</param>
    public void Receive(Tensor tensor, int peer, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        using Blocking waits = new(this);
        StartReceive(tensor, peer, file, line).Wait();
    }

    /// <inheritdoc cref="Receive"/>
    /// <returns>The work, whose result is the tensor.</returns>
    public CollectiveWork StartReceive(
        Tensor tensor,
        int peer,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        Check(nameof(Receive), tensor);
        CollectiveArguments.CheckPeer(this, peer);
        Count(0, Bytes(tensor));
        return Launch(
            CollectiveKind.Receive,
            CollectiveSignature.Of(tensor, $", from rank {peer}"),
            tensor,
            tensor,
            file,
            line,
            call => communicator.Receive(call, tensor, peer),
            peer
        );
    }

    /// <summary>Returns once every rank has called it. Collective.</summary>
    public void Barrier([CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        using Blocking waits = new(this);
        StartBarrier(file, line).Wait();
    }

    /// <inheritdoc cref="Barrier"/>
    /// <returns>The work; it has no result.</returns>
    public CollectiveWork StartBarrier([CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        return Launch(
            CollectiveKind.Barrier,
            CollectiveSignature.Nothing,
            null,
            null,
            file,
            line,
            communicator.Barrier
        );
    }

    /// <summary>
    /// Makes the groups of ranks that pass the same color, ordered by key, then by rank in this group. Collective.
    /// </summary>
    /// <param name="color">Not negative.</param>
    /// <param name="name">What the new group is called in messages.</param>
    /// <returns>The group this rank belongs to. Owned by the caller.</returns>
    public ProcessGroup Split(
        int color,
        int key,
        string name,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        ArgumentNullException.ThrowIfNull(name);
        ArgumentOutOfRangeException.ThrowIfNegative(color);
        ObjectDisposedException.ThrowIf(disposed, this);
        ICommunicator? made = null;
        Launch(CollectiveKind.Split, CollectiveSignature.Nothing, null, null, file, line, call =>
            {
                made = communicator.Split(call, color, key, name);
                return CompletedTransfer.Instance;
            })
            .Wait();
        return new ProcessGroup($"{Id}/{++splits}.{color}", name, made!, Monitor);
    }

    /// <summary>Collective, unless the job has ended.</summary>
    public void Dispose()
    {
        if (disposed)
            return;
        disposed = true;
        communicator.Dispose();
    }

    /// <summary>
    /// How many elements each of a number of ranks has of a whole that is shared out evenly: lower ranks have one more.
    /// </summary>
    public static long[] EvenSplit(long elements, int ranks) =>
        [.. Enumerable.Range(0, ranks).Select(rank => elements / ranks + (rank < elements % ranks ? 1 : 0))];

    private CollectiveWork StartAllGather(
        Tensor? own,
        Tensor all,
        IReadOnlyList<long> counts,
        Func<string> agreed,
        string file,
        int line
    )
    {
        long ownBytes = counts[Rank] * all.ElementSize;
        Count(ownBytes, Bytes(all) - ownBytes);
        return Launch(CollectiveKind.AllGather, agreed, own ?? all, all, file, line, call =>
            communicator.AllGather(call, own, all, counts)
        );
    }

    private CollectiveWork StartReduceScatter(
        Tensor input,
        Tensor output,
        IReadOnlyList<long> counts,
        ReduceOperation operation,
        Func<string> agreed,
        string file,
        int line
    )
    {
        long own = Bytes(output);
        Count(Bytes(input) - own, (Size - 1) * own);
        return Launch(CollectiveKind.ReduceScatter, agreed, input, output, file, line, call =>
            communicator.ReduceScatter(call, input, output, counts, operation)
        );
    }

    private CollectiveWork StartAllToAll(
        Tensor input,
        IReadOnlyList<long> sendCounts,
        Tensor output,
        IReadOnlyList<long> receiveCounts,
        Func<string> agreed,
        string file,
        int line
    )
    {
        long own = sendCounts[Rank] * input.ElementSize;
        Count(Bytes(input) - own, Bytes(output) - own);
        return Launch(CollectiveKind.AllToAll, agreed, input, output, file, line, call =>
            communicator.AllToAll(call, input, sendCounts, output, receiveCounts)
        );
    }

    // Tensors of a call that waits are its caller's, who has no chance to dispose them meanwhile.
    private readonly ref struct Blocking
    {
        private readonly ProcessGroup group;

        public Blocking(ProcessGroup group)
        {
            this.group = group;
            group.waits = true;
        }

        public void Dispose() => group.waits = false;
    }

    private CollectiveWork Launch(
        CollectiveKind kind,
        Func<string> agreed,
        Tensor? payload,
        Tensor? result,
        string file,
        int line,
        Func<CollectiveCall, ITransfer> start,
        int? peer = null
    )
    {
        if (Size == 1)
            return new CollectiveWork(null, start(CollectiveCall.None), Monitor, result);
        var call = new CollectiveCall(agreed, file, line)
        {
            GroupId = Id,
            GroupName = Name,
            Members = Members,
            Sequence = peer is int other ? Next(kind, other) : ++collectives,
            Kind = kind,
            Bytes = payload is null ? 0 : Bytes(payload),
            Activity = Monitor.Activity,
            IsAwaited = waits,
        };
        Monitor.Enqueue(call);
        if (Monitor.ChecksCollectives && peer is null)
            CollectiveCheck.Run(communicator, call);
        return new CollectiveWork(call, start(call), Monitor, result);
    }

    private long Next(CollectiveKind kind, int peer)
    {
        messages.TryGetValue((kind, peer), out long count);
        return messages[(kind, peer)] = count + 1;
    }

    private void Check(string collective, Tensor tensor)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        CollectiveArguments.CheckTensor(this, communicator, collective, tensor);
    }

    private void Count(long sent, long received)
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

    private static long Bytes(Tensor tensor) => checked(tensor.NumberOfElements * tensor.ElementSize);
}
