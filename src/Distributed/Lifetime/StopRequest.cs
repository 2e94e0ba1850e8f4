using System.Diagnostics;
using System.Runtime.InteropServices;

namespace LongNet.Distributed.Lifetime;

/// <summary>
/// Once this object is made, the first <see cref="StopSignal"/> to this process only sets <see cref="Received"/>, for a
/// program that stops where it can. A later signal ends the process at once.
/// </summary>
internal sealed partial class StopRequest : IDisposable
{
    // Within this time signals count as one: launchers, terminals and "dotnet run" may pass one signal on twice.
    private static readonly TimeSpan OneEvent = TimeSpan.FromSeconds(0.5);

    private readonly Action<StopSignal>? onFirst;
    private readonly Action<StopSignal> onLater;
    private readonly PosixSignalRegistration[] registrations;
    private long firstAt;
    private volatile int received = -1;

    /// <param name="onFirst">Called once, on another thread, after the first signal.</param>
    /// <param name="onLater">Called on another thread at a later signal. Does not return; null: the operating system's
    /// default, which ends the process.</param>
    internal StopRequest(Action<StopSignal>? onFirst = null, Action<StopSignal>? onLater = null)
    {
        this.onFirst = onFirst;
        this.onLater = onLater ?? EndByDefault;
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
            onFirst?.Invoke(signal);
        }
        else if (Stopwatch.GetElapsedTime(first, now) >= OneEvent)
        {
            onLater(signal);
        }
    }

    // .NET's own handling would run exit handlers while other threads still compute.
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
