using System.Diagnostics;
using System.Runtime.InteropServices;
using LongNet.Core;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Mpi;

namespace LongNet.Distributed;

/// <summary>
/// How a rank that fails takes the others with it, which would else wait for it for ever: it tells its message with the rank, makes
/// everyone write a flight record, and ends the job.
/// </summary>
internal sealed class JobTermination : IDisposable
{
    // Launchers tear the job down at an abort, and what a rank has just written may not have reached them yet.
    private static readonly TimeSpan TimeToBeHeard = TimeSpan.FromMilliseconds(500);

    // MPI_Abort can block when the launcher is out of reach.
    private static readonly TimeSpan TimeToAbort = TimeSpan.FromSeconds(5);

    private readonly MpiSession session;
    private readonly RankEnvironment environment;
    private readonly RankSentinel sentinel;
    private readonly MpiWatchdog watchdog;
    private readonly PosixSignalRegistration terminated;
    private int ending;

    /// <summary>Collective.</summary>
    public JobTermination(MpiSession session, RankEnvironment environment, RankSentinel sentinel)
    {
        this.session = session;
        this.environment = environment;
        this.sentinel = sentinel;
        sentinel.Mark(session.JobId, session.LocalProcesses);
        watchdog = new MpiWatchdog(session.Native, session.Monitor, environment, (message, failed, code) => End(message, failed, code));
        AppDomain.CurrentDomain.UnhandledException += OnUnhandledException;
        AppDomain.CurrentDomain.ProcessExit += OnProcessExit;
        terminated = PosixSignalRegistration.Create(PosixSignal.SIGTERM, OnTerminate);
    }

    /// <summary>Tells the message and ends all ranks. Does not return.</summary>
    /// <param name="message">Null where it has been told.</param>
    /// <param name="failedRank">Whose failure it is; null where that is not known.</param>
    /// <param name="reason">What flight records say; the message where null.</param>
    public void End(string? message, int? failedRank, int exitCode, string? reason = null)
    {
        if (Interlocked.Exchange(ref ending, 1) != 0)
            Thread.Sleep(Timeout.Infinite);
        reason ??= message ?? "";
        sentinel.Told();
        if (message is not null)
        {
            Console.Out.Flush();
            Console.Error.WriteLine($"longnet: rank {environment.Rank}: {message}");
        }

        Console.Out.Flush();
        Console.Error.Flush();
        WriteRecord(reason, failedRank);
        if (failedRank is not null && session.IsActive)
            watchdog.TellOthers(reason);
        using var deadline = new Timer(_ => Process.GetCurrentProcess().Kill(), null, TimeToBeHeard + TimeToAbort, Timeout.InfiniteTimeSpan);
        Thread.Sleep(TimeToBeHeard);
        session.Abort(exitCode);
        Environment.Exit(exitCode);
    }

    /// <summary>The job is over, and this rank ends as it should.</summary>
    public void Dispose()
    {
        AppDomain.CurrentDomain.UnhandledException -= OnUnhandledException;
        AppDomain.CurrentDomain.ProcessExit -= OnProcessExit;
        terminated.Dispose();
        watchdog.Dispose();
    }

    /// <summary>Waits until all ranks are here. Collective.</summary>
    public void AwaitOthers()
    {
        session.Monitor.Activity = "finished";
        var call = new CollectiveCall(() => "", $"{nameof(DistributedRuntime)}.cs", 0)
        {
            GroupId = "end",
            GroupName = "end of the program",
            Members = [.. Enumerable.Range(0, environment.Size)],
            Sequence = 1,
            Kind = CollectiveKind.Barrier,
            Bytes = 0,
            Activity = session.Monitor.Activity,
        };
        session.Monitor.Enqueue(call);
        session.Progress.Enqueue(new MpiStream(), new MpiTransfer(session.Progress, call, session.Monitor, Requests())).Wait();

        IEnumerable<nint> Requests()
        {
            yield return session.Native.StartBarrier(watchdog.Communicator, call.GroupName);
        }
    }

    private void OnUnhandledException(object sender, UnhandledExceptionEventArgs arguments)
    {
        var error = (Exception)arguments.ExceptionObject;
        // Where several ranks see the same failure, one speaks for them; the others wait for the end that it brings.
        if (error is CollectiveException { Speaker: int speaker } && speaker != environment.Rank)
            Thread.Sleep(CollectiveException.SpeakerTime);
        string text = error is UserException ? error.Message : error.ToString();
        End(text, environment.Rank, 1, error is UserException ? error.Message : $"{error.GetType()}: {error.Message}");
    }

    private void OnProcessExit(object? sender, EventArgs arguments)
    {
        if (session.IsActive && Volatile.Read(ref ending) == 0)
            End($"left without finishing; ending the job with code {DistributedRuntime.LeftWithoutFinishing}.", environment.Rank, DistributedRuntime.LeftWithoutFinishing);
    }

    // From a launcher, when another rank has gone: that one's death is what is told. Else the sentinel tells of this one.
    private void OnTerminate(PosixSignalContext context)
    {
        context.Cancel = true;
        if (Interlocked.Exchange(ref ending, 1) != 0)
            return;
        string text = "was ended by SIGTERM";
        sentinel.Message($"longnet: rank {environment.Rank} ({Environment.MachineName}, process {Environment.ProcessId}) {text}.");
        WriteRecord(text, null);
        Environment.Exit(128 + 15);
    }

    private void WriteRecord(string reason, int? failedRank)
    {
        if (session.Monitor.RecordFolder is { } folder)
            _ = FlightRecord.Of(session.Monitor, environment, reason, failedRank).TryWrite(folder);
    }
}
