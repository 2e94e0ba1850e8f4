using System.Diagnostics;
using LongNet.Core.Attention;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// The caller's handle of a collective that was started. Its tensors must not be read or written until
/// <see cref="Wait"/> has returned. A work that nobody waits for still runs to its end.
/// </summary>
/// <remarks>
/// A collective has three objects, one for each reader. The <see cref="CollectiveCall"/> describes it to messages, the
/// monitor and flight records. The <see cref="ITransfer"/> is its state in the backend, which the thread that waits
/// for it advances, or a thread of the backend. The <see cref="CollectiveWork"/> is what the caller waits for, and has
/// the result.
/// </remarks>
public sealed class CollectiveWork : IPendingTensor
{
    private readonly ITransfer transfer;
    private readonly CollectiveMonitor monitor;
    private readonly Tensor? result;

    internal CollectiveWork(CollectiveCall? call, ITransfer transfer, CollectiveMonitor monitor, Tensor? result)
    {
        Call = call;
        this.transfer = transfer;
        this.monitor = monitor;
        this.result = result;
    }

    /// <summary>The record of the call; null in a group of one rank.</summary>
    internal CollectiveCall? Call { get; }

    /// <summary>Whether <see cref="Wait"/> has no other rank to wait for.</summary>
    public bool IsCompleted => transfer.IsCompleted;

    /// <summary>
    /// Waits for this rank's part. A CPU tensor then holds the result; a CUDA tensor will hold it for everything that
    /// is put on the default stream from now on.
    /// </summary>
    public void Wait()
    {
        long start = Stopwatch.GetTimestamp();
        try
        {
            transfer.Wait();
        }
        finally
        {
            monitor.AddWait(Stopwatch.GetTimestamp() - start);
        }
    }

    /// <summary>
    /// Waits and returns the result: the new tensor, owned by the caller of the collective, or the one that it changed
    /// in place.
    /// </summary>
    /// <exception cref="InvalidOperationException">The collective has no result (send, barrier).</exception>
    public Tensor Result()
    {
        Wait();
        return result ?? throw new InvalidOperationException("This collective has no result.");
    }
}
