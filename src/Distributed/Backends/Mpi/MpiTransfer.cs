using System.Runtime.ExceptionServices;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Backends.Mpi;

/// <summary>
/// A collective as a sequence of MPI requests, each started when the one before is done. The thread that waits advances
/// it, or the progress thread while nobody waits.
/// </summary>
/// <remarks>
/// From its creation to its completion it refers to the tensors, so that none is finalized. With
/// <see cref="TensorLifetime.KeptByTransfer"/> these are handles of its own, which the caller cannot dispose.
/// </remarks>
internal sealed class MpiTransfer : ITransfer
{
    private readonly MpiProgress progress;
    private readonly CollectiveCall call;
    private readonly CollectiveMonitor monitor;
    private readonly IEnumerator<nint> requests;
    private readonly Tensor?[] tensors;
    private readonly bool ownsTensors;
    private volatile bool completed;
    private bool started;
    private Exception? failure;

    /// <param name="requests">Each step starts a request and returns it.</param>
    /// <param name="tensors">The tensors that the requests read and write.</param>
    public MpiTransfer(
        MpiProgress progress,
        CollectiveCall call,
        CollectiveMonitor monitor,
        IEnumerable<nint> requests,
        params ReadOnlySpan<Tensor?> tensors
    )
    {
        this.progress = progress;
        this.call = call;
        this.monitor = monitor;
        this.requests = requests.GetEnumerator();
        ownsTensors = call.Lifetime == TensorLifetime.KeptByTransfer;
        this.tensors = tensors.ToArray();
        for (int i = 0; i < tensors.Length && ownsTensors; i++)
            this.tensors[i] = tensors[i]?.detach().DetachFromDisposeScope();
    }

    public bool IsCompleted => completed;

    public void Wait()
    {
        progress.Wait(this);
        if (failure is not null)
            ExceptionDispatchInfo.Throw(failure);
    }

    /// <summary>Starts what can be started. Only under the lock of <see cref="MpiProgress"/>.</summary>
    /// <returns>Whether it is completed.</returns>
    public bool Advance(MpiNative native)
    {
        try
        {
            if (!started)
            {
                started = true;
                monitor.Start(call);
                if (!requests.MoveNext())
                    return Complete();
            }

            while (native.Test(requests.Current, call.GroupName))
            {
                if (!requests.MoveNext())
                    return Complete();
            }

            return false;
        }
        catch (Exception error)
        {
            failure = new CollectiveException(
                $"{call} at {call.CallSite} failed: {error.Message} Where ranks have called different "
                    + "collectives, parallel.check_collectives: true says which.",
                error
            );
            return Complete();
        }
    }

    private bool Complete()
    {
        requests.Dispose();
        if (ownsTensors)
        {
            foreach (Tensor? tensor in tensors)
                tensor?.Dispose();
        }

        monitor.Complete(call);
        completed = true;
        return true;
    }
}
