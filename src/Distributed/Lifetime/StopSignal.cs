using System.Runtime.InteropServices;

namespace LongNet.Distributed.Lifetime;

/// <summary>A signal by which people, launchers and schedulers ask a program to stop.</summary>
internal enum StopSignal
{
    SIGTERM,
    SIGINT,
    SIGUSR1,
    SIGUSR2,
}

/// <summary>Numbers of stop signals.</summary>
internal static class StopSignals
{
    /// <summary>
    /// As kill(2) takes it. The first two are the same everywhere; of the others each kernel has its own.
    /// </summary>
    public static int Number(this StopSignal signal) =>
        signal switch
        {
            StopSignal.SIGTERM => 15,
            StopSignal.SIGINT => 2,
            StopSignal.SIGUSR1 => OperatingSystem.IsLinux() ? 10 : 30,
            _ => OperatingSystem.IsLinux() ? 12 : 31,
        };

    /// <summary>As .NET takes it.</summary>
    public static PosixSignal ToPosix(this StopSignal signal) =>
        signal switch
        {
            StopSignal.SIGTERM => PosixSignal.SIGTERM,
            StopSignal.SIGINT => PosixSignal.SIGINT,
            _ => (PosixSignal)signal.Number(),
        };
}
