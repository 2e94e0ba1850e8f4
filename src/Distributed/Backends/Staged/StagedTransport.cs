using LongNet.Distributed.Collectives;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Backends.Staged;

/// <summary>
/// Carries tensors of any device through host memory: a copy travels by the host's communicator, with its reductions,
/// so that the bits are those of CPU tensors. Only what a rank gives is copied from the device, and only what it
/// receives is copied to it.
/// </summary>
/// <param name="host">The ranks. Not owned.</param>
/// <param name="pool">Memory for the copies. Not owned.</param>
internal sealed class StagedTransport(ICommunicator host, StagingPool pool) : ITensorTransport
{
    public ITransfer AllGather(CollectiveCall call, Tensor? own, Tensor all, IReadOnlyList<long> counts)
    {
        var staged = new StagedTensor(pool, all);
        long first = FirstOf(counts),
            count = counts[host.Rank],
            after = first + count;
        if (own is null)
            staged.CopyFromDevice(first, count);
        else
            staged.CopyFromDevice(own, first);
        return new StagedTransfer(
            host.AllGather(call, null, staged.Host, counts),
            () =>
            {
                // The own part is on the device already, unless it was given apart.
                if (own is not null)
                {
                    staged.CopyToDevice(0, staged.Host.NumberOfElements);
                    return;
                }

                staged.CopyToDevice(0, first);
                staged.CopyToDevice(after, staged.Host.NumberOfElements - after);
            },
            staged
        );
    }

    public ITransfer ReduceScatter(
        CollectiveCall call,
        Tensor input,
        Tensor output,
        IReadOnlyList<long> counts,
        ReduceOperation operation
    )
    {
        StagedTensor given = new StagedTensor(pool, input).CopyFromDevice(),
            sum = new(pool, output);
        return new StagedTransfer(
            host.ReduceScatter(call, given.Host, sum.Host, counts, operation),
            () => sum.CopyToDevice(0, sum.Host.NumberOfElements),
            given,
            sum
        );
    }

    public ITransfer AllReduce(CollectiveCall call, Tensor tensor, ReduceOperation operation)
    {
        StagedTensor staged = new StagedTensor(pool, tensor).CopyFromDevice();
        return new StagedTransfer(
            host.AllReduce(call, staged.Host, operation),
            () => staged.CopyToDevice(0, staged.Host.NumberOfElements),
            staged
        );
    }

    public ITransfer Broadcast(CollectiveCall call, Tensor tensor, int root)
    {
        var staged = new StagedTensor(pool, tensor);
        bool isRoot = host.Rank == root;
        if (isRoot)
            staged.CopyFromDevice();
        return new StagedTransfer(
            host.Broadcast(call, staged.Host, root),
            isRoot ? null : () => staged.CopyToDevice(0, staged.Host.NumberOfElements),
            staged
        );
    }

    public ITransfer AllToAll(
        CollectiveCall call,
        Tensor input,
        IReadOnlyList<long> sendCounts,
        Tensor output,
        IReadOnlyList<long> receiveCounts
    )
    {
        StagedTensor sent = new StagedTensor(pool, input).CopyFromDevice(),
            received = new(pool, output);
        return new StagedTransfer(
            host.AllToAll(call, sent.Host, sendCounts, received.Host, receiveCounts),
            () => received.CopyToDevice(0, received.Host.NumberOfElements),
            sent,
            received
        );
    }

    public ITransfer Send(CollectiveCall call, Tensor tensor, int peer)
    {
        StagedTensor staged = new StagedTensor(pool, tensor).CopyFromDevice();
        return new StagedTransfer(host.Send(call, staged.Host, peer), null, staged);
    }

    public ITransfer Receive(CollectiveCall call, Tensor tensor, int peer)
    {
        var staged = new StagedTensor(pool, tensor);
        return new StagedTransfer(
            host.Receive(call, staged.Host, peer),
            () => staged.CopyToDevice(0, staged.Host.NumberOfElements),
            staged
        );
    }

    private long FirstOf(IReadOnlyList<long> counts) => counts.Take(host.Rank).Sum();
}
