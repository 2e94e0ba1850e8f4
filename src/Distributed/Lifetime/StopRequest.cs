using System.Diagnostics;
using System.Runtime.InteropServices;

namespace LongNet.Distributed.Lifetime;

/// <summary>
/// From when it is made, the first signal of <see cref="StopSignal"/> to this process is only noted, for a program that
/// stops where it can. A later one ends the process at once.
/// </summary>
internal sealed partial class StopRequest : IDisposable
{
    // Launchers, terminals and "dotnet run" pass one signal on more than once.
    private static readonly TimeSpan OneEvent = TimeSpan.FromSeconds(0.5);

    private readonly Action<StopSignal>? noted;
    private readonly Action<StopSignal> again;
    private readonly PosixSignalRegistration[] registrations;
    private long firstAt;
    private volatile int received = -1;

    /// <param name="noted">Called once, on another thread, after the first signal.</param>
    /// <param name="again">Called, on another thread, at a later one. Does not return; null: the signal does what it
    /// does by default.</param>
    internal StopRequest(Action<StopSignal>? noted = null, Action<StopSignal>? again = null)
    {
        this.noted = noted;
        this.again = again ?? EndByDefault;
        registrations =
        [
            .. Enum.GetValues<StopSignal>()
                .Select(signal => PosixSignalRegistration.Create(signal.ToPosix(), context =>
                    {
                        context.Cancel = true;
                        OnSignal(signal);
                    })),
        ];
    }

    /// <summary>The first signal; null as long as there is none.</summary>
    public StopSignal? Received => received < 0 ? null : (StopSignal)received;

    public void Dispose()
    {
        foreach (PosixSignalRegistration registration in registrations)
            registration.Dispose();
    }

    private void OnSignal(StopSignal signal)
    {
        long now = Stopwatch.GetTimestamp(),
            first = Interlocked.CompareExchange(ref firstAt, now, 0);
        if (first == 0)
        {
            received = (int)signal;
            noted?.Invoke(signal);
        }
        else if (Stopwatch.GetElapsedTime(first, now) >= OneEvent)
        {
            again(signal);
        }
    }

    // Not by .NET's own way, which runs exit handlers while other threads still compute.
    private static void EndByDefault(StopSignal signal)
    {
        _ = SetHandler(signal.Number(), 0);
        _ = Kill(Environment.ProcessId, signal.Number());
        EndOfProcess.Await();
    }

    [LibraryImport("libc", EntryPoint = "signal")]
    private static partial nint SetHandler(int signal, nint handler);

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int Kill(int process, int signal);
}
