using System.Collections.Concurrent;
using System.Diagnostics;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Backends.Nccl;

/// <summary>
/// One NCCL communicator, the CUDA stream on which its collectives run one after another beside the computation, and
/// the only thread that calls it.
/// </summary>
/// <remarks>
/// A non-blocking call stays in progress until its peers have made the same call, and NCCL keeps it in thread-local
/// variables meanwhile (2.22 still does). With a thread for every communicator, calls to several communicators may be
/// in progress, and a message does not block the thread that sends it.
/// </remarks>
internal sealed unsafe class NcclQueue : IDisposable
{
    // Interval at which the thread polls the GPU's progress and NCCL's errors.
    private const int PollMilliseconds = 1;

    // For this long a call is polled without a pause: the caller waits for it, as a rule for some microseconds, and a
    // thread that sleeps does so for a millisecond at least.
    private const int SpinMilliseconds = 5;

    private static readonly TimeSpan FinalizeLimit = TimeSpan.FromSeconds(30);

    // The watchdog reports first, because it knows which rank is missing.
    private static readonly TimeSpan WatchdogTime = TimeSpan.FromSeconds(10);

    private readonly CollectiveMonitor monitor;
    private readonly string name;
    private readonly int rank,
        size,
        worldRank,
        device;
    private readonly nint context;
    private readonly BlockingCollection<NcclTransfer> pending = [];
    private readonly Queue<NcclTransfer> running = new();
    private readonly Lock gate = new();
    private readonly Thread thread;

    // NCCL writes the addresses of this communicator and of a part of it here, from its own threads and as long as the
    // call is in progress.
    private readonly nint[] address = GC.AllocateArray<nint>(1, pinned: true),
        partAddress = GC.AllocateArray<nint>(1, pinned: true);
    private NcclCommunicatorHandle? communicator;
    private nint stream;
    private Exception? failure;

    private NcclQueue(
        CollectiveMonitor monitor,
        string name,
        int rank,
        int size,
        int worldRank,
        int device,
        Func<NcclQueue, NcclCommunicatorHandle> open
    )
    {
        this.monitor = monitor;
        this.name = name;
        this.rank = rank;
        this.size = size;
        this.worldRank = worldRank;
        this.device = device;
        context = CudaDriver.RetainContext(device);
        thread = new Thread(() => Run(open)) { IsBackground = true, Name = "longnet-nccl" };
        thread.Start();
    }

    /// <summary>Makes a communicator. Returns at once; collectives run when all ranks have joined.</summary>
    /// <param name="name">The group, for messages.</param>
    /// <param name="rank">This process's place among <paramref name="size"/>.</param>
    /// <param name="device">The GPU, as in <c>cuda:index</c>.</param>
    /// <param name="id">Returns the id that rank 0 made; may wait for it. Called once, on another thread.</param>
    public static NcclQueue Join(
        CollectiveMonitor monitor,
        string name,
        int rank,
        int size,
        int worldRank,
        int device,
        Func<NcclUniqueId> id
    ) => new(monitor, name, rank, size, worldRank, device, queue => queue.Begin(id()));

    /// <summary>
    /// Makes communicators of parts of this one. Collective over this one; waits until the call is completed.
    /// </summary>
    /// <param name="color">Ranks of one color belong together; <see cref="NcclNative.NoColor"/>: this rank gets
    /// none.</param>
    /// <param name="newRank">Its place among <paramref name="newSize"/>, which NCCL's must agree with.</param>
    /// <returns>The part's; null for <see cref="NcclNative.NoColor"/>.</returns>
    public NcclQueue? Split(CollectiveCall call, int color, int key, string newName, int newRank, int newSize)
    {
        Enqueue(call.Untracked(), (parent, _) =>
            {
                // NCCL: "When split, there should not be any outstanding NCCL operations on the comm. Otherwise, it
                // might cause a deadlock." The last one is this call, which has put nothing on the stream.
                WaitForRunning(besides: 1);
                NcclConfig config = NcclConfig.NonBlocking;
                partAddress[0] = 0;
                fixed (nint* made = partAddress)
                    return NcclNative.CommSplit(parent, color, key, made, &config);
            })
            .Wait();
        nint part = partAddress[0];
        return color == NcclNative.NoColor
            ? null
            : new NcclQueue(monitor, newName, newRank, newSize, worldRank, device, _ => new NcclCommunicatorHandle(
                part
            ));
    }

    /// <summary>
    /// Adds a collective, which begins after those before it and after the work that is on the default stream now.
    /// </summary>
    /// <param name="start">As <see cref="NcclTransfer"/> takes it.</param>
    public NcclTransfer Enqueue(
        CollectiveCall call,
        Func<NcclCommunicatorHandle, nint, NcclResult>? start,
        params ReadOnlySpan<Tensor?> tensors
    )
    {
        foreach (Tensor? tensor in tensors)
        {
            if (tensor is not null && tensor.device_index != device)
                throw new ArgumentException(
                    $"The group '{name}' communicates from cuda:{device}, and was given a tensor on "
                        + $"cuda:{tensor.device_index}.",
                    nameof(tensors)
                );
        }

        var transfer = new NcclTransfer(context, call, monitor, start, tensors);
        lock (gate)
        {
            if (failure is not null)
                transfer.Fail(failure, worldRank);
            else
                pending.Add(transfer);
        }

        return transfer;
    }

    /// <summary>
    /// As <see cref="Enqueue"/>, and returns when the collective is on the stream. Collectives of several communicators
    /// so come to the GPU in the program's order: two ranks that had them in different orders could each wait for the
    /// other.
    /// </summary>
    public NcclTransfer Launch(
        CollectiveCall call,
        Func<NcclCommunicatorHandle, nint, NcclResult>? start,
        params ReadOnlySpan<Tensor?> tensors
    )
    {
        NcclTransfer transfer = Enqueue(call, start, tensors);
        transfer.WaitUntilIssued();
        return transfer;
    }

    /// <summary>Waits for all collectives and for the other ranks, for at most 30 s. Collective.</summary>
    public void Dispose()
    {
        lock (gate)
            pending.CompleteAdding();
        if (thread.Join(FinalizeLimit))
            pending.Dispose();
    }

    private void Run(Func<NcclQueue, NcclCommunicatorHandle> open)
    {
        try
        {
            CudaDriver.SetCurrent(context);
            stream = CudaDriver.CreateStream();
            communicator = open(this);
            WaitUntilReady($"NCCL could not join the {size} ranks of {name}");
            CheckPlace();
            while (!pending.IsCompleted)
            {
                if (pending.TryTake(out NcclTransfer? next, running.Count > 0 ? PollMilliseconds : Timeout.Infinite))
                {
                    running.Enqueue(next);
                    next.Issue(communicator, stream, WaitUntilReady);
                }

                Poll();
            }

            WaitForRunning(besides: 0);
            FinalizeCommunicator();
        }
        catch (Exception error)
        {
            Fail(error);
        }
    }

    private NcclCommunicatorHandle Begin(NcclUniqueId id)
    {
        NcclConfig config = NcclConfig.NonBlocking;
        NcclResult result;
        fixed (nint* made = address)
            result = NcclNative.CommInitRankConfig(made, size, id, rank, &config);
        // Also where the call failed, so that the communicator is aborted.
        communicator = new NcclCommunicatorHandle(address[0]);
        NcclNative.Check(result, "ncclCommInitRankConfig");
        return communicator;
    }

    // Polls until the last call is completed.
    private void WaitUntilReady(string trouble)
    {
        long start = Stopwatch.GetTimestamp();
        var spin = new SpinWait();
        while (State(trouble) == NcclResult.InProgress)
        {
            if (Stopwatch.GetElapsedTime(start) > monitor.Timeout + WatchdogTime)
            {
                throw new NcclException(
                    $"{trouble} within {(monitor.Timeout + WatchdogTime).TotalSeconds:0} s: see "
                        + "whether all ranks run, and whether NCCL_SOCKET_IFNAME names the network that joins "
                        + "their machines."
                );
            }

            ReapCompleted();
            Pause(ref spin, start);
        }
    }

    // Returns when the GPU is done with all but the last collectives.
    private void WaitForRunning(int besides)
    {
        long start = Stopwatch.GetTimestamp();
        var spin = new SpinWait();
        for (Poll(); running.Count > besides; Poll())
            Pause(ref spin, start);
    }

    private static void Pause(ref SpinWait spin, long start)
    {
        if (Stopwatch.GetElapsedTime(start).TotalMilliseconds < SpinMilliseconds)
            spin.SpinOnce(sleep1Threshold: -1);
        else
            spin.SpinOnce();
    }

    private NcclResult State(string trouble)
    {
        NcclResult state;
        NcclNative.Check(NcclNative.CommGetAsyncError(communicator!, &state), "ncclCommGetAsyncError");
        NcclNative.Check(state, trouble);
        return state;
    }

    private void Poll()
    {
        ReapCompleted();
        State("NCCL reports an error");
    }

    private void ReapCompleted()
    {
        while (running.TryPeek(out NcclTransfer? first) && first.Advance())
            running.Dequeue();
    }

    // If NCCL's ranks differed from the group's, collectives would deliver wrong parts.
    private void CheckPlace()
    {
        int actualRank,
            actualSize;
        NcclNative.Check(NcclNative.CommUserRank(communicator!, &actualRank), "ncclCommUserRank");
        NcclNative.Check(NcclNative.CommCount(communicator!, &actualSize), "ncclCommCount");
        if (actualRank != rank || actualSize != size)
            throw new NcclException(
                $"NCCL made this process rank {actualRank} of {actualSize} in {name}, where MPI made it "
                    + $"rank {rank} of {size}."
            );
    }

    private void FinalizeCommunicator()
    {
        NcclNative.Check(NcclNative.CommFinalize(communicator!), "ncclCommFinalize");
        WaitUntilReady($"NCCL could not leave {name}");
        communicator!.IsFinalized = true;
        communicator.Dispose();
        CudaDriver.DestroyStream(stream);
    }

    private void Fail(Exception error)
    {
        lock (gate)
        {
            failure = error;
            pending.CompleteAdding();
        }

        foreach (NcclTransfer transfer in running.Concat(pending.GetConsumingEnumerable()))
            transfer.Fail(error, worldRank);
        // Aborts the collectives on the GPU, which the other ranks notice.
        communicator?.Dispose();
    }
}
