using System.Diagnostics.CodeAnalysis;

namespace LongNet.Distributed.Lifetime;

/// <summary>Holds a thread that has nothing left to do while another thread or the system ends the process.</summary>
internal static class EndOfProcess
{
    /// <summary>Does not return.</summary>
    [DoesNotReturn]
    public static void Await()
    {
        while (true)
#pragma warning disable RS0030 // Nothing but the end of the process may end this wait.
            Thread.Sleep(Timeout.Infinite);
#pragma warning restore RS0030
    }
}
