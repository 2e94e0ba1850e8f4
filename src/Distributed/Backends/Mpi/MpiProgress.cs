using System.Diagnostics;
using System.Runtime.InteropServices;

namespace LongNet.Distributed.Backends.Mpi;

/// <summary>
/// Advances the transfers of a process. MPI makes no progress between calls, so while no thread waits, the progress
/// thread calls it at short intervals, and communication continues beside the computation.
/// </summary>
internal sealed partial class MpiProgress : IDisposable
{
    // Pauses of the progress thread: short enough to hide a collective behind computation, long enough to use little of
    // a core.
    private const uint PauseMicroseconds = 50,
        LongPauseMicroseconds = 500,
        LongestPauseMicroseconds = 2000;

    // After this time without communication the progress thread sleeps until a transfer is enqueued.
    private static readonly long IdleTicks = Stopwatch.Frequency / 50;

    private readonly MpiNative native;
    private readonly bool oversubscribed;
    private readonly Lock gate = new();
    private readonly List<TransferQueue> busyQueues = [];
    private readonly AutoResetEvent wake = new(false);
    private readonly Thread thread;
    private volatile bool sleeping,
        stopped;
    private int waiters;

    /// <param name="oversubscribed">
    /// Whether this machine has more ranks than processors, so that a rank that spins keeps a processor from another
    /// rank.
    /// </param>
    public MpiProgress(MpiNative native, bool oversubscribed)
    {
        this.native = native;
        this.oversubscribed = oversubscribed;
        thread = new Thread(Run) { IsBackground = true, Name = "longnet-progress" };
        thread.Start();
    }

    /// <summary>Adds a transfer to a queue, and starts it if the queue has no earlier one.</summary>
    public MpiTransfer Enqueue(TransferQueue queue, MpiTransfer transfer)
    {
        lock (gate)
        {
            queue.Transfers.Enqueue(transfer);
            if (queue.Transfers.Count == 1)
            {
                busyQueues.Add(queue);
                Advance(queue);
            }
        }

        if (sleeping && !transfer.IsCompleted)
            wake.Set();
        return transfer;
    }

    /// <summary>Returns when the transfer is completed; meanwhile advances all transfers.</summary>
    public void Wait(MpiTransfer transfer)
    {
        if (transfer.IsCompleted)
            return;
        Interlocked.Increment(ref waiters);
        try
        {
            long start = Stopwatch.GetTimestamp();
            for (long polls = 1; ; polls++)
            {
                lock (gate)
                    AdvanceAll();
                if (transfer.IsCompleted)
                    return;
                Pause(polls, start);
            }
        }
        finally
        {
            Interlocked.Decrement(ref waiters);
        }
    }

    /// <summary>Waits until all transfers of a queue are completed.</summary>
    public void Drain(TransferQueue queue)
    {
        while (true)
        {
            MpiTransfer? last;
            lock (gate)
                last = queue.Transfers.LastOrDefault();
            if (last is null)
                return;
            Wait(last);
        }
    }

    public void Dispose()
    {
        stopped = true;
        wake.Set();
        thread.Join();
        wake.Dispose();
    }

    // Spinning is quickest for transfers of microseconds. After that, another rank of this machine or one of MPI's
    // threads may need the processor.
    private void Pause(long polls, long start)
    {
        if (polls < (oversubscribed ? 20 : 4000))
            return;
        if (polls % 16 == 0 && Stopwatch.GetTimestamp() - start > Stopwatch.Frequency / (oversubscribed ? 1000 : 50))
            _ = Sleep(PauseMicroseconds);
        else
            _ = Yield();
    }

    private void Run()
    {
        long lastBusy = Stopwatch.GetTimestamp(),
            lastUseful = 0;
        while (!stopped)
        {
            bool any = false;
            // A thread that waits advances all transfers, and two threads that do so would hinder each other.
            if (Volatile.Read(ref waiters) == 0)
            {
                lock (gate)
                {
                    AdvanceAll();
                    any = busyQueues.Count > 0;
                }
            }

            long now = Stopwatch.GetTimestamp();
            if (any)
                lastUseful = now;
            if (any || Volatile.Read(ref waiters) > 0)
                lastBusy = now;
            if (now - lastBusy < IdleTicks)
            {
                // In a program that waits for each of its collectives, the threads that wait advance them. This thread
                // then finds nothing to do, and pauses longer to use less of the processor.
                _ = Sleep(
                    any ? PauseMicroseconds
                    : now - lastUseful < Stopwatch.Frequency ? LongPauseMicroseconds
                    : LongestPauseMicroseconds
                );
                continue;
            }

            sleeping = true;
            // A transfer that was enqueued before the flag was visible has not set the event.
            lock (gate)
                any = busyQueues.Count > 0;
            if (!any)
                wake.WaitOne();
            sleeping = false;
            lastBusy = Stopwatch.GetTimestamp();
        }
    }

    private void AdvanceAll()
    {
        for (int i = busyQueues.Count - 1; i >= 0; i--)
            Advance(busyQueues[i]);
    }

    private void Advance(TransferQueue queue)
    {
        while (queue.Transfers.TryPeek(out MpiTransfer? first))
        {
            if (!first.Advance(native))
                return;
            queue.Transfers.Dequeue();
        }

        busyQueues.Remove(queue);
    }

    [LibraryImport("libc", EntryPoint = "usleep")]
    private static partial int Sleep(uint microseconds);

    [LibraryImport("libc", EntryPoint = "sched_yield")]
    private static partial int Yield();
}

/// <summary>Transfers that run one after another. Touched only under the lock of <see cref="MpiProgress"/>.</summary>
internal sealed class TransferQueue
{
    public Queue<MpiTransfer> Transfers { get; } = new();
}
