using System.Diagnostics;
using System.Runtime.InteropServices;
using LongNet.Distributed.Backends.Nccl;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Lifetime;
using Xunit;

namespace LongNet.RankWorker.Scenarios;

/// <summary>The queue of NCCL's calls, with the emulated driver and NCCL of <c>Native/emulated_nccl.c</c>.</summary>
internal static class EmulatedNccl
{
    // An operation of the emulated NCCL runs this long.
    private const double OperationSeconds = 100e-3;

    /// <param name="runtime">One rank.</param>
    /// <param name="arguments">The emulated library, which has the driver's name, so that its functions are found where
    /// the driver's are looked for.</param>
    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        Environment.SetEnvironmentVariable(NcclLibrary.LibraryVariable, arguments[0]);
        NativeLibrary.Load(arguments[0]);
        Assert.Null(NcclLibrary.Problem);
        var monitor = new CollectiveMonitor();
        NcclQueue queue = NcclQueue.Join(monitor, "the group 'world'", 0, 1, 0, 0, () => default);
        CheckLaunch(monitor, queue);
        CheckWait(monitor, queue);
        CheckSplit(monitor, queue);
        queue.Dispose();
        Assert.Empty(monitor.Open());
    }

    // A call is in progress for 0.1 ms. A poll that sleeps takes 1 ms more, every time; one that does not may, where
    // another process has the processor meanwhile.
    private static void CheckLaunch(CollectiveMonitor monitor, NcclQueue queue)
    {
        Start(monitor, queue).Wait();
        double least = double.MaxValue;
        for (int i = 0; i < 100 && least > 0.9e-3; i++)
        {
            long start = Stopwatch.GetTimestamp();
            Start(monitor, queue);
            least = Math.Min(least, Stopwatch.GetElapsedTime(start).TotalSeconds);
        }

        Assert.InRange(least, 0, 0.9e-3);
    }

    // The default stream waits, this thread does not, and the time counts once the stream is past it. Where another
    // process has the processor for too long, there is nothing left to wait for.
    private static void CheckWait(CollectiveMonitor monitor, NcclQueue queue)
    {
        AwaitAll(monitor);
        double before = monitor.ExposedCommunicationSeconds;
        for (int i = 0; i < 20 && monitor.ExposedCommunicationSeconds == before; i++)
        {
            Start(monitor, queue).Wait();
            AwaitAll(monitor);
            Thread.Sleep(2);
        }

        Assert.InRange(monitor.ExposedCommunicationSeconds - before, 1e-6, OperationSeconds + 1e-3);
    }

    // The emulated NCCL refuses a split while an operation runs.
    private static void CheckSplit(CollectiveMonitor monitor, NcclQueue queue)
    {
        for (int round = 0; round < 3; round++)
        {
            Start(monitor, queue);
            NcclTransfer last = Start(monitor, queue);
            Assert.False(last.IsCompleted);
            using NcclQueue part = queue.Split(Call(CollectiveKind.Split), 0, 0, "the group 'part'", 0, 1)!;
            Assert.True(last.IsCompleted);
            Start(monitor, part).Wait();
        }

        Assert.Null(queue.Split(Call(CollectiveKind.Split), NcclNative.NoColor, 0, "none", 0, 0));
    }

    private static NcclTransfer Start(CollectiveMonitor monitor, NcclQueue queue)
    {
        CollectiveCall call = Call(CollectiveKind.AllReduce);
        monitor.Enqueue(call);
        return queue.Launch(call, (communicator, stream) =>
            NcclNative.AllReduce(0, 0, 1, NcclType.Float32, NcclReduction.Sum, communicator, stream)
        );
    }

    private static void AwaitAll(CollectiveMonitor monitor) =>
        Assert.True(SpinWait.SpinUntil(() => monitor.Open().Count == 0, TimeSpan.FromSeconds(30)));

    private static CollectiveCall Call(CollectiveKind kind) =>
        new(() => "", default)
        {
            GroupId = "world",
            GroupName = "world",
            Members = [0],
            Number = 1,
            Kind = kind,
            Bytes = 4,
            Activity = "",
        };
}
