using System.Diagnostics;
using LongNet.Distributed;

namespace LongNet.RankWorker.Scenarios;

/// <summary>One rank goes, in ways it should not, while the others wait for it in a collective.</summary>
internal static class Departures
{
    public static void Throw(DistributedRuntime runtime, string[] arguments)
    {
        if (runtime.World.Rank == int.Parse(arguments[0]))
            throw new InvalidOperationException("the GPU fell off the bus");
        runtime.World.Barrier();
    }

    public static void Leave(DistributedRuntime runtime, string[] arguments)
    {
        if (runtime.World.Rank == int.Parse(arguments[0]))
            Environment.Exit(0);
        runtime.World.Barrier();
    }

    public static void Die(DistributedRuntime runtime, string[] arguments)
    {
        if (runtime.World.Rank == int.Parse(arguments[0]))
            Process.GetCurrentProcess().Kill();
        runtime.World.Barrier();
    }
}
