using System.Runtime.ExceptionServices;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Backends.Nccl;

/// <summary>
/// A collective in a <see cref="NcclQueue"/>: it is enqueued, issued to the stream, and completed on the GPU.
/// </summary>
/// <remarks>
/// Until the GPU is done it owns handles to the tensors: libtorch reuses freed memory for later work on its own stream,
/// and does not know of NCCL's.
/// </remarks>
internal sealed class NcclTransfer : ITransfer
{
    private readonly nint context;
    private readonly CollectiveCall call;
    private readonly CollectiveMonitor monitor;
    private readonly Func<NcclCommunicatorHandle, nint, NcclResult>? start;
    private readonly Tensor?[] handles;
    private readonly nint ready;
    private readonly TaskCompletionSource issued = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Lock gate = new();
    private nint done;
    private bool started;
    private volatile bool completed;
    private Exception? failure;

    /// <summary>The collective comes after the work that is on the default stream now.</summary>
    /// <param name="context">The GPU's.</param>
    /// <param name="start">Calls NCCL for a communicator and a stream; null where there is nothing to send.</param>
    /// <param name="tensors">The tensors that NCCL reads and writes.</param>
    public NcclTransfer(
        nint context,
        CollectiveCall call,
        CollectiveMonitor monitor,
        Func<NcclCommunicatorHandle, nint, NcclResult>? start,
        params ReadOnlySpan<Tensor?> tensors
    )
    {
        this.context = context;
        this.call = call;
        this.monitor = monitor;
        this.start = start;
        using (CudaDriver.Enter(context))
            ready = CudaDriver.Record(CudaDriver.DefaultStream);
        handles = new Tensor?[tensors.Length];
        for (int i = 0; i < handles.Length; i++)
            handles[i] = tensors[i]?.detach().DetachFromDisposeScope();
    }

    public bool IsCompleted => completed;

    /// <summary>Returns when it is on the stream, or has failed, which <see cref="Wait"/> throws.</summary>
    public void WaitUntilIssued() => issued.Task.Wait();

    /// <summary>
    /// Lets the default stream wait for the collective; this thread waits only until NCCL has put it on its own stream.
    /// </summary>
    public void Wait()
    {
        WaitUntilIssued();
        if (failure is not null)
            ExceptionDispatchInfo.Throw(failure);
        lock (gate)
        {
            if (failure is not null)
                ExceptionDispatchInfo.Throw(failure);
            if (completed)
                return;
            using (CudaDriver.Enter(context))
            {
                nint first = CudaDriver.RecordTimed(CudaDriver.DefaultStream);
                CudaDriver.Wait(CudaDriver.DefaultStream, done);
                monitor.AddDeviceWait(new NcclWait(context, first, CudaDriver.RecordTimed(CudaDriver.DefaultStream)));
            }
        }
    }

    /// <summary>Puts the collective on the stream. Only on the queue's thread, as all below.</summary>
    /// <param name="waitUntilReady">Returns when the communicator's call is no longer in progress.</param>
    public void Issue(NcclCommunicatorHandle communicator, nint stream, Action<string> waitUntilReady)
    {
        CudaDriver.Wait(stream, ready);
        if (start is not null)
        {
            const string Trouble = "NCCL could not begin it";
            NcclNative.Check(start(communicator, stream), Trouble);
            waitUntilReady(Trouble);
        }

        // After the call: while it is in progress, it has put nothing on the stream yet.
        done = CudaDriver.Record(stream);
        issued.SetResult();
    }

    /// <summary>Reports to the monitor what the GPU has reached.</summary>
    /// <returns>Whether it is done.</returns>
    public bool Advance()
    {
        if (done == 0)
            return false;
        bool passed = CudaDriver.HasPassed(done);
        if (!started && (passed || CudaDriver.HasPassed(ready)))
        {
            started = true;
            monitor.Start(call);
        }

        if (!passed)
            return false;
        foreach (Tensor? tensor in handles)
            tensor?.Dispose();
        monitor.Complete(call);
        lock (gate)
        {
            completed = true;
            CudaDriver.Forget(ready);
            CudaDriver.Forget(done);
        }

        return true;
    }

    /// <summary>Ends it without a result. The tensors are not released: the GPU may still write into them.</summary>
    public void Fail(Exception error, int worldRank)
    {
        if (!started)
            monitor.Start(call);
        monitor.Complete(call);
        lock (gate)
        {
            failure = new NcclException($"{call} failed on rank {worldRank}: {error.Message}");
            completed = true;
        }

        issued.TrySetResult();
    }
}
