using System.Diagnostics;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using static TorchSharp.torch;

namespace LongNet.RankWorker.Scenarios;

/// <summary>
/// depart HOW RANK [TIMEOUT_SECONDS [FOLDER]]: one rank fails in one of several ways, while the others are in a
/// collective or come to one.
/// </summary>
internal static class Departures
{
    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        ProcessGroup world = runtime.World;
        bool isDeparting = world.Rank == int.Parse(arguments[1]);
        if (arguments.Length > 2)
            runtime.Monitor.Timeout = TimeSpan.FromSeconds(double.Parse(arguments[2]));
        runtime.Monitor.RecordFolder = arguments.Length > 3 ? arguments[3] : null;
        runtime.Monitor.ChecksCollectives = arguments[0].StartsWith("checked-", StringComparison.Ordinal);
        using var scope = NewDisposeScope();
        Tensor values = ones(2_000_000);
        runtime.Monitor.Activity = "warming up";
        for (int step = 0; step < 3; step++)
            world.AllReduce(values);
        runtime.Monitor.Activity = isDeparting ? $"about to {arguments[0]}" : "waiting";
        if (isDeparting)
            Console.WriteLine($"departing at {DateTimeOffset.UtcNow.ToUnixTimeMilliseconds()}");
        switch (arguments[0])
        {
            case "throw":
                if (isDeparting)
                    throw new InvalidOperationException("the GPU fell off the bus");
                break;
            case "leave":
                if (isDeparting)
                    Environment.Exit(0);
                break;
            case "die" or "stop" or "terminate":
                // In the middle of collectives: another process picks the moment.
                string signal = arguments[0] switch
                {
                    "die" => "KILL",
                    "stop" => "STOP",
                    _ => "TERM",
                };
                if (isDeparting)
                    _ = Process.Start("sh", ["-c", $"sleep 0.5; kill -{signal} {Environment.ProcessId}"]);
                while (true)
                    world.AllReduce(values);
            case "finish":
                if (isDeparting)
                    return;
                break;
            case "hang":
                if (isDeparting)
                    Thread.Sleep(Timeout.Infinite);
                break;
            case "differ" or "checked-shape":
                if (isDeparting)
                    world.AllReduce(ones(7));
                break;
            case "checked-operation":
                if (isDeparting)
                    world.AllReduce(ones(3), ReduceOperation.Max);
                break;
            case "checked-type":
                if (isDeparting)
                    world.AllReduce(ones(3, dtype: float64));
                break;
            case "checked-order":
                if (isDeparting)
                    world.Barrier();
                break;
            default:
                throw new ArgumentException($"There is no way to {arguments[0]}.");
        }

        world.AllReduce(ones(3));
        world.Barrier();
    }
}
