using System.Diagnostics;
using System.Runtime.InteropServices;
using LongNet.Core;
using LongNet.Core.Native;
using LongNet.Distributed.Backends.Mpi;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Launch;

namespace LongNet.Distributed.Lifetime;

/// <summary>
/// Ends the job when this rank fails, because the other ranks would wait for it for ever. This rank notices an
/// exception, an exit, a signal or, by its <see cref="Watchdog"/>, a collective that does not finish.
/// </summary>
/// <remarks>
/// A rank that ends the job reports why, makes every rank write its flight record, and aborts all ranks
/// (<see cref="End"/>). A rank that a signal ends writes its own record only, and its <see cref="RankSentinel"/>
/// reports (<see cref="EndBySignal"/>): the launcher then ends the other ranks. docs/communication.md has the table of
/// cases.
/// </remarks>
internal sealed partial class JobTermination : IDisposable
{
    // Launchers end all ranks at an abort, and the last lines of a rank may not have reached them yet.
    private static readonly TimeSpan ReportTime = TimeSpan.FromMilliseconds(500);

    // MPI_Abort can block when the launcher is out of reach.
    private static readonly TimeSpan AbortTime = TimeSpan.FromSeconds(5);

    private readonly MpiSession session;
    private readonly RankEnvironment environment;
    private readonly RankSentinel sentinel;
    private readonly Watchdog watchdog;
    private readonly PosixSignalRegistration[] signals;
    private readonly int[] neighbours;
    private readonly Lock recording = new();
    private volatile StopRequest? request;

    // 1 from when this rank has begun to end the job, or itself.
    private int ending;

    /// <summary>Collective.</summary>
    public JobTermination(MpiSession session, RankEnvironment environment, RankSentinel sentinel)
    {
        this.session = session;
        this.environment = environment;
        this.sentinel = sentinel;
        sentinel.JoinJob(session.JobId, session.LocalProcesses);
        neighbours = [.. session.LocalProcesses.Where(IsAlive)];
        watchdog = new Watchdog(
            session.Native,
            session.Monitor,
            environment,
            sentinel.SetReported,
            (message, failedRank, exitCode) => End(message, failedRank, exitCode)
        );
        AppDomain.CurrentDomain.UnhandledException += OnUnhandledException;
        AppDomain.CurrentDomain.ProcessExit += OnProcessExit;
        signals =
        [
            .. new[] { (PosixSignal.SIGTERM, 15), (PosixSignal.SIGINT, 2), (PosixSignal.SIGHUP, 1) }.Select(entry =>
                PosixSignalRegistration.Create(entry.Item1, context => OnSignal(context, entry.Item2))
            ),
        ];
    }

    /// <summary>Makes the next signal a <see cref="StopRequest"/>, instead of ending this rank by it.</summary>
    /// <returns>Owned by the caller.</returns>
    public StopRequest DeferSignals() =>
        request = new StopRequest(OnRequest, signal => EndBySignal($"{signal}", signal.Number()));

    /// <summary>
    /// Keeps this rank from writing a flight record from now on: the run has stopped in order, and its ranks' records
    /// are about to be removed.
    /// </summary>
    public void StopRecording()
    {
        lock (recording)
            session.Monitor.RecordFolder = null;
    }

    /// <summary>Reports the message and ends all ranks. Does not return.</summary>
    /// <param name="failedRank">Rank that failed; null where it is not known.</param>
    /// <param name="reason">Text for flight records; the message where null.</param>
    public void End(string message, int? failedRank, int exitCode, string? reason = null)
    {
        if (Interlocked.Exchange(ref ending, 1) != 0)
            EndOfProcess.Await();
        // A full pipe, a file system that hangs or an MPI that has lost the other ranks must not keep the job running.
        using Timer deadline = KillAfter(ReportTime + AbortTime);
        reason ??= message;
        Attempt(sentinel.SetReported);
        Attempt(() => Print(message));
        Attempt(() => WriteRecord(reason, failedRank));
        if (session.IsActive)
            Attempt(() => watchdog.ReportFailure(failedRank, reason));
#pragma warning disable RS0030 // This rank is about to end; nothing may shorten the pause.
        Thread.Sleep(ReportTime);
#pragma warning restore RS0030
        session.Abort(exitCode);
        Environment.Exit(exitCode);
    }

    /// <summary>Reports an error of this rank and ends all ranks. Does not return.</summary>
    public void Fail(Exception error, int exitCode)
    {
        // Where several ranks see the same failure, one reports it; the others only report it if the job has not ended
        // by then.
        if (error is CollectiveException { ReportingRank: int reporting } && reporting != environment.Rank)
#pragma warning disable RS0030 // The rank that reports the failure ends this process.
            Thread.Sleep(Watchdog.ReportingRankTime);
#pragma warning restore RS0030
        // The message of a UserException is complete without the exception's type and stack trace.
        bool isUserException = error is UserException;
        End(
            isUserException ? error.Message : error.ToString(),
            environment.Rank,
            exitCode,
            isUserException ? error.Message : $"{error.GetType()}: {error.Message}"
        );
    }

    /// <summary>The job is over, and this rank may exit.</summary>
    public void Dispose()
    {
        AppDomain.CurrentDomain.UnhandledException -= OnUnhandledException;
        AppDomain.CurrentDomain.ProcessExit -= OnProcessExit;
        foreach (PosixSignalRegistration signal in signals)
            signal.Dispose();
        watchdog.Dispose();
    }

    /// <summary>Waits until all ranks have come to the end of the program. Collective.</summary>
    public void AwaitOthers()
    {
        session.Monitor.Activity = "finished";
        var call = new CollectiveCall(() => "", new CallerLocation($"{nameof(DistributedRuntime)}.cs", 0))
        {
            GroupId = "end",
            GroupName = "end of the program",
            Members = [.. Enumerable.Range(0, environment.Size)],
            Number = 1,
            Kind = CollectiveKind.Barrier,
            Bytes = 0,
            Activity = session.Monitor.Activity,
        };
        session.Monitor.Enqueue(call);
        session
            .Progress.Enqueue(new TransferQueue(), new MpiTransfer(session.Progress, call, session.Monitor, Requests()))
            .Wait();

        IEnumerable<nint> Requests()
        {
            yield return session.Native.StartBarrier(watchdog.Communicator, call.GroupName);
        }
    }

    private void OnUnhandledException(object sender, UnhandledExceptionEventArgs arguments) =>
        Fail((Exception)arguments.ExceptionObject, ExitCode.Error);

    private void OnProcessExit(object? sender, EventArgs arguments)
    {
        if (session.IsActive && Volatile.Read(ref ending) == 0)
            End(
                $"left without finishing; ending the job with code {ExitCode.RankLeft}.",
                environment.Rank,
                ExitCode.RankLeft
            );
    }

    private void OnSignal(PosixSignalContext context, int number)
    {
        context.Cancel = true;
        if (request is null || context.Signal == PosixSignal.SIGHUP)
            EndBySignal($"{context.Signal}", number);
    }

    // The sentinel reports, once this rank is gone. Where the launcher sent the signal because another rank has died,
    // that rank's sentinel has reported before.
    private void EndBySignal(string name, int number)
    {
        if (Interlocked.Exchange(ref ending, 1) != 0)
            return;
        using Timer deadline = KillAfter(AbortTime);
        PrepareReport(name);
        Console.Out.Flush();
        // Without the exit handlers of MPI's libraries, which other threads may still be calling.
        ExitAtOnce(ExitCode.OfSignal(number));
    }

    // The sender of the signal may kill this rank before it has stopped, so the report is prepared now.
    private void OnRequest(StopSignal signal)
    {
        // Where a rank of this machine has died, the launcher is ending the job, and the next collective would not end.
        if (!neighbours.All(IsAlive))
            EndBySignal($"{signal}", signal.Number());
        PrepareReport($"{signal}");
    }

    private void PrepareReport(string signal)
    {
        string text = $"was ended by {signal}";
        sentinel.SetMessage(
            $"longnet: rank {environment.Rank} ({Environment.MachineName}, process {Environment.ProcessId}) {text}."
        );
        Attempt(() => WriteRecord(text, null));
    }

    // One that is dead and not yet waited for has no command line any more.
    private static bool IsAlive(int process) => ProcFile.Text($"/proc/{process}/cmdline") is { Length: > 0 };

    [LibraryImport("libc", EntryPoint = "_exit")]
    private static partial void ExitAtOnce(int code);

    private static Timer KillAfter(TimeSpan time) =>
        new(_ => Process.GetCurrentProcess().Kill(), null, time, Timeout.InfiniteTimeSpan);

    private static void Attempt(Action action)
    {
        try
        {
            action();
        }
        catch (Exception)
        {
            // The job ends all the same.
        }
    }

    private void Print(string message)
    {
        Console.Out.Flush();
        Console.Error.WriteLine($"longnet: rank {environment.Rank}: {message}");
        Console.Error.Flush();
    }

    private void WriteRecord(string reason, int? failedRank)
    {
        lock (recording)
        {
            if (session.Monitor.RecordFolder is { } folder)
                _ = FlightRecord.Of(session.Monitor, environment, reason, failedRank).TryWrite(folder);
        }
    }
}
