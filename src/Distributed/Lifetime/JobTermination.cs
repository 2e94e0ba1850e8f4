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
/// How a rank that fails takes the others with it, which would else wait for it for ever: it tells its message with the
/// rank, makes everyone write a flight record, and ends the job.
/// </summary>
internal sealed partial class JobTermination : IDisposable
{
    // Launchers tear the job down at an abort, and what a rank has just written may not have reached them yet.
    private static readonly TimeSpan TimeToBeHeard = TimeSpan.FromMilliseconds(500);

    // MPI_Abort can block when the launcher is out of reach.
    private static readonly TimeSpan TimeToAbort = TimeSpan.FromSeconds(5);

    private readonly MpiSession session;
    private readonly RankEnvironment environment;
    private readonly RankSentinel sentinel;
    private readonly MpiWatchdog watchdog;
    private readonly PosixSignalRegistration[] signals;
    private readonly int[] neighbours;
    private readonly Lock recording = new();
    private volatile StopRequest? request;
    private int ending;

    /// <summary>Collective.</summary>
    public JobTermination(MpiSession session, RankEnvironment environment, RankSentinel sentinel)
    {
        this.session = session;
        this.environment = environment;
        this.sentinel = sentinel;
        sentinel.Mark(session.JobId, session.LocalProcesses);
        neighbours = [.. session.LocalProcesses.Where(IsAlive)];
        watchdog = new MpiWatchdog(
            session.Native,
            session.Monitor,
            environment,
            sentinel.Told,
            (message, failed, code) => End(message, failed, code)
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

    /// <summary>Notes the next signal as <see cref="StopRequest"/> says, instead of ending this rank by it.</summary>
    /// <returns>Owned by the caller.</returns>
    public StopRequest DeferSignals() =>
        request = new StopRequest(OnRequest, signal => EndBySignal($"{signal}", signal.Number()));

    /// <summary>
    /// Keeps this rank from writing its flight record once more: the run has stopped in order, and the records are to
    /// go.
    /// </summary>
    public void StopRecording()
    {
        lock (recording)
            session.Monitor.RecordFolder = null;
    }

    /// <summary>Tells the message and ends all ranks. Does not return.</summary>
    /// <param name="message">Null where it has been told.</param>
    /// <param name="failedRank">Whose failure it is; null where that is not known.</param>
    /// <param name="reason">What flight records say; the message where null.</param>
    public void End(string? message, int? failedRank, int exitCode, string? reason = null)
    {
        if (Interlocked.Exchange(ref ending, 1) != 0)
            Thread.Sleep(Timeout.Infinite);
        // Nothing below may keep the job: not a full pipe, a file system that hangs, nor an MPI that has lost the
        // others.
        using var deadline = new Timer(
            _ => Process.GetCurrentProcess().Kill(),
            null,
            TimeToBeHeard + TimeToAbort,
            Timeout.InfiniteTimeSpan
        );
        reason ??= message ?? "";
        Attempt(sentinel.Told);
        Attempt(() =>
        {
            Console.Out.Flush();
            if (message is not null)
                Console.Error.WriteLine($"longnet: rank {environment.Rank}: {message}");
            Console.Error.Flush();
        });
        Attempt(() => WriteRecord(reason, failedRank));
        if (session.IsActive)
            Attempt(() => watchdog.TellOthers(failedRank, reason));
        Thread.Sleep(TimeToBeHeard);
        session.Abort(exitCode);
        Environment.Exit(exitCode);
    }

    /// <summary>Tells an error of this rank and ends all ranks. Does not return.</summary>
    public void Fail(Exception error, int exitCode)
    {
        // Where several ranks see the same failure, one speaks for them; the others wait for the end that it brings.
        if (error is CollectiveException { Speaker: int speaker } && speaker != environment.Rank)
            Thread.Sleep(CollectiveException.SpeakerTime);
        bool isForPeople = error is UserException;
        End(
            isForPeople ? error.Message : error.ToString(),
            environment.Rank,
            exitCode,
            isForPeople ? error.Message : $"{error.GetType()}: {error.Message}"
        );
    }

    /// <summary>The job is over, and this rank ends as it should.</summary>
    public void Dispose()
    {
        AppDomain.CurrentDomain.UnhandledException -= OnUnhandledException;
        AppDomain.CurrentDomain.ProcessExit -= OnProcessExit;
        foreach (PosixSignalRegistration signal in signals)
            signal.Dispose();
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
        session
            .Progress.Enqueue(new MpiStream(), new MpiTransfer(session.Progress, call, session.Monitor, Requests()))
            .Wait();

        IEnumerable<nint> Requests()
        {
            yield return session.Native.StartBarrier(watchdog.Communicator, call.GroupName);
        }
    }

    private void OnUnhandledException(object sender, UnhandledExceptionEventArgs arguments)
    {
        Fail((Exception)arguments.ExceptionObject, 1);
    }

    private void OnProcessExit(object? sender, EventArgs arguments)
    {
        if (session.IsActive && Volatile.Read(ref ending) == 0)
            End(
                $"left without finishing; ending the job with code {DistributedRuntime.LeftWithoutFinishing}.",
                environment.Rank,
                DistributedRuntime.LeftWithoutFinishing
            );
    }

    private void OnSignal(PosixSignalContext context, int number)
    {
        context.Cancel = true;
        if (request is null || context.Signal == PosixSignal.SIGHUP)
            EndBySignal($"{context.Signal}", number);
    }

    // From a launcher, when another rank has gone: that one's death is what is told. Else the sentinel tells of this
    // one.
    private void EndBySignal(string name, int number)
    {
        if (Interlocked.Exchange(ref ending, 1) != 0)
            return;
        using var deadline = new Timer(
            _ => Process.GetCurrentProcess().Kill(),
            null,
            TimeToAbort,
            Timeout.InfiniteTimeSpan
        );
        Note(name);
        Console.Out.Flush();
        // Without the exit handlers of MPI's libraries, which other threads are still in.
        ExitAtOnce(128 + number);
    }

    // Who sends it may kill this rank before it has stopped. What then is told and found must be known now.
    private void OnRequest(StopSignal signal)
    {
        // Where a rank here has died, the launcher is ending the job, and the next collective would not end.
        if (!neighbours.All(IsAlive))
            EndBySignal($"{signal}", signal.Number());
        Note($"{signal}");
    }

    private void Note(string signal)
    {
        string text = $"was ended by {signal}";
        sentinel.Message(
            $"longnet: rank {environment.Rank} ({Environment.MachineName}, process {Environment.ProcessId}) {text}."
        );
        Attempt(() => WriteRecord(text, null));
    }

    // One that is dead and not yet waited for has no command line any more.
    private static bool IsAlive(int process) => ProcFile.Text($"/proc/{process}/cmdline") is { Length: > 0 };

    [LibraryImport("libc", EntryPoint = "_exit")]
    private static partial void ExitAtOnce(int code);

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

    private void WriteRecord(string reason, int? failedRank)
    {
        lock (recording)
        {
            if (session.Monitor.RecordFolder is { } folder)
                _ = FlightRecord.Of(session.Monitor, environment, reason, failedRank).TryWrite(folder);
        }
    }
}
