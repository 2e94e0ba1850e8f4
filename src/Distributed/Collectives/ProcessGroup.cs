using System.Runtime.CompilerServices;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// An ordered set of ranks that communicate. Every method marked Collective must be called by all ranks of the group,
/// in the same order, with matching shapes and dtypes. CPU tensors travel by MPI, tensors of other devices as
/// <see cref="DeviceTransport"/> says.
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
/// GPUs NCCL chooses the order for float32 and float64. 16-bit types are accumulated in float32 everywhere.
/// </para>
/// <para>
/// CUDA tensors of a rank lie on one GPU, and with NCCL no two ranks share one. Where ranks belong to several groups,
/// they start the groups' collectives of CUDA tensors in the same order. With NCCL a Start… of these returns when the
/// collective is on its stream, which for the first of a group is when all ranks have come; else when this rank's part
/// is in host memory.
/// </para>
/// <para>Not thread-safe: one thread at a time may use a group.</para>
/// </remarks>
public sealed partial class ProcessGroup : IDisposable
{
    private readonly ICommunicator communicator;
    private int splits;
    private bool disposed;

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
    public Tensor AllGather(Tensor input, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) =>
        LaunchAllGather(input, TensorLifetime.KeptByCaller, new CallerLocation(file, line)).Result();

    /// <summary>Concatenates parts of different lengths. Collective.</summary>
    /// <param name="input">This rank's part, [counts[Rank]], contiguous. Not disposed.</param>
    /// <param name="counts">Every rank's element count, the same list on all ranks; zeros allowed.</param>
    /// <returns>[Σ counts], parts in rank order. Owned by the caller.</returns>
    public Tensor AllGatherUneven(
        Tensor input,
        IReadOnlyList<long> counts,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => LaunchAllGatherUneven(input, counts, TensorLifetime.KeptByCaller, new CallerLocation(file, line)).Result();

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
    ) => LaunchReduceScatter(input, operation, TensorLifetime.KeptByCaller, new CallerLocation(file, line)).Result();

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
    ) =>
        LaunchReduceScatterUneven(input, counts, operation, TensorLifetime.KeptByCaller, new CallerLocation(file, line))
            .Result();

    /// <summary>
    /// Reduces in place; every rank ends with the same bits. 16-bit types are accumulated in float32. Collective.
    /// </summary>
    /// <param name="tensor">Contiguous, the same shape and dtype on all ranks.</param>
    public void AllReduce(
        Tensor tensor,
        ReduceOperation operation = ReduceOperation.Sum,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => LaunchAllReduce(tensor, operation, TensorLifetime.KeptByCaller, new CallerLocation(file, line)).Wait();

    /// <summary>Overwrites the tensor with the root's, in place. Collective.</summary>
    /// <param name="tensor">Contiguous, the same shape and dtype on all ranks.</param>
    /// <param name="root">Group rank whose values all ranks take.</param>
    public void Broadcast(
        Tensor tensor,
        int root,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => LaunchBroadcast(tensor, root, TensorLifetime.KeptByCaller, new CallerLocation(file, line)).Wait();

    /// <summary>Sends slice j of the first dimension to rank j and takes one from everyone. Collective.</summary>
    /// <param name="input">[<see cref="Size"/>, …], contiguous, the same shape on all ranks. Not disposed.</param>
    /// <returns>[<see cref="Size"/>, …]: slice i came from rank i. Owned by the caller.</returns>
    public Tensor AllToAll(Tensor input, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) =>
        LaunchAllToAll(input, TensorLifetime.KeptByCaller, new CallerLocation(file, line)).Result();

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
    ) =>
        LaunchAllToAllUneven(
                input,
                sendCounts,
                receiveCounts,
                TensorLifetime.KeptByCaller,
                new CallerLocation(file, line)
            )
            .Result();

    /// <summary>
    /// Sends a tensor to one rank, which must receive it. The peer's receives meet this rank's sends in order.
    /// </summary>
    /// <param name="tensor">Contiguous. Not disposed.</param>
    /// <param name="peer">Group rank that receives; not this one.</param>
    public void Send(Tensor tensor, int peer, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) =>
        LaunchSend(tensor, peer, TensorLifetime.KeptByCaller, new CallerLocation(file, line)).Wait();

    /// <summary>Overwrites a tensor with the one that a rank sends.</summary>
    /// <param name="tensor">Contiguous, of the sender's size and dtype.</param>
    /// <param name="peer">Group rank that sends; not this one.</param>
    public void Receive(Tensor tensor, int peer, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0) =>
        LaunchReceive(tensor, peer, TensorLifetime.KeptByCaller, new CallerLocation(file, line)).Wait();

    /// <summary>Returns once every rank has called it. Collective.</summary>
    public void Barrier([CallerFilePath] string file = "", [CallerLineNumber] int line = 0) =>
        LaunchBarrier(TensorLifetime.KeptByCaller, new CallerLocation(file, line)).Wait();

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
        CollectiveCall call = Begin(
            new CollectiveLaunch(
                CollectiveKind.Split,
                CollectiveSignature.Nothing,
                Bytes: 0,
                TensorLifetime.KeptByCaller,
                new CallerLocation(file, line)
            )
        );
        ICommunicator part = communicator.Split(call, color, key, name);
        return new ProcessGroup($"{Id}/{++splits}.{color}", name, part, Monitor);
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
    /// Divides elements evenly among ranks; where they do not divide, the first ranks have one more.
    /// </summary>
    public static long[] EvenSplit(long elements, int ranks) =>
        [.. Enumerable.Range(0, ranks).Select(rank => elements / ranks + (rank < elements % ranks ? 1 : 0))];
}
