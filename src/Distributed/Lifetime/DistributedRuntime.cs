using System.Diagnostics;
using LongNet.Core;
using LongNet.Distributed.Backends.Mpi;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Launch;

namespace LongNet.Distributed.Lifetime;

/// <summary>
/// The ranks of this job: one where no launcher started the process (no MPI is loaded), else MPI's. Made once per
/// process, at the start of the program, and disposed at its end.
/// </summary>
/// <remarks>
/// A rank that fails takes the others with it, which would else wait for it for ever: an unhandled exception prints its
/// message with the rank and ends the job with code 1; a process that exits without <see cref="Dispose"/> ends it with
/// <see cref="LeftWithoutFinishing"/>; a collective that does not finish within
/// <see cref="CollectiveMonitor.Timeout"/>, with <see cref="TimedOut"/>. Every rank then writes its flight record into
/// <see cref="CollectiveMonitor.RecordFolder"/>.
/// </remarks>
public sealed class DistributedRuntime : IDisposable
{
    /// <summary>Exit code of a job of which a rank left without <see cref="Dispose"/>.</summary>
    public const int LeftWithoutFinishing = 86;

    /// <summary>Exit code of a job of which a collective did not finish in time.</summary>
    public const int TimedOut = 87;

    // For MPI_Finalize, once all ranks have come to it.
    private static readonly TimeSpan DefaultFinishLimit = TimeSpan.FromSeconds(30);

    // Ranks load their program and libraries before; over a shared file system that takes minutes, not more.
    private static readonly TimeSpan StartLimit = TimeSpan.FromMinutes(5);

    private readonly MpiSession? session;
    private readonly RankSentinel? sentinel;
    private readonly JobTermination? termination;
    private StopRequest? request;

    private DistributedRuntime(
        RankEnvironment environment,
        MpiSession? session,
        RankSentinel? sentinel,
        int largestMessage
    )
    {
        Environment = environment;
        this.session = session;
        this.sentinel = sentinel;
        if (session is null)
        {
            World = ProcessGroup.Solo("world");
        }
        else
        {
            termination = new JobTermination(session, environment, sentinel!);
            World = new ProcessGroup(
                "world",
                "world",
                new DeviceCommunicator(new MpiCommunicator(session, "world", largestMessage), "world", session.Monitor),
                session.Monitor
            );
        }
    }

    public RankEnvironment Environment { get; }

    /// <summary>The MPI library; null where no launcher started the process.</summary>
    internal MpiLibrary? Mpi => session is null ? null : MpiLibrary.Of(session.Native);

    /// <summary>All ranks. Owned by the runtime.</summary>
    public ProcessGroup World { get; }

    /// <summary>
    /// What this process knows of its collectives: their deadline, the time they take, the last thousand.
    /// </summary>
    public CollectiveMonitor Monitor => World.Monitor;

    /// <summary>Joins the ranks the launcher started. Collective.</summary>
    /// <param name="environment">What the launcher said; read from this process where null.</param>
    /// <param name="finishLimit">How long <see cref="Dispose"/> waits for MPI to end, once all ranks are there; 30 s
    /// where null.</param>
    /// <exception cref="UserException">MPI's library is missing, or not the launcher's.</exception>
    /// <exception cref="AgreedUserException">Ranks run different programs.</exception>
    public static DistributedRuntime Start(RankEnvironment? environment = null, TimeSpan? finishLimit = null) =>
        Start(
            environment ?? RankEnvironment.FromProcess(),
            finishLimit ?? DefaultFinishLimit,
            MpiCommunicator.DefaultLargestMessage
        );

    /// <summary>
    /// Tells an error of this rank and ends all ranks at once, for failures that the other ranks do not see. Returns
    /// only where there is no job to end: the process was not started by a launcher.
    /// </summary>
    public void Fail(Exception error, int exitCode)
    {
        ArgumentNullException.ThrowIfNull(error);
        termination?.Fail(error, exitCode);
    }

    /// <summary>
    /// From now on the first SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 to this rank does not end it, but asks the program to
    /// stop; what comes more than half a second later ends it at once. For programs that save something first: all
    /// ranks must agree on where to stop.
    /// </summary>
    /// <returns>
    /// What says whether there was one. Owned by the runtime, which ends by signals as before once it is disposed.
    /// </returns>
    internal StopRequest DeferSignals() => request ??= termination?.DeferSignals() ?? new StopRequest();

    /// <summary>
    /// Lets this rank write no flight record any more, for a program that has obeyed a <see cref="StopRequest"/> and
    /// removes the records that its ranks wrote at the signal, in case the launcher would kill them.
    /// </summary>
    internal void StopRecording() => termination?.StopRecording();

    /// <summary>
    /// Leaves MPI. Collective: waits for the other ranks, as long as for any collective, then ends the job.
    /// </summary>
    public void Dispose()
    {
        termination?.AwaitOthers();
        World.Dispose();
        termination?.Dispose();
        request?.Dispose();
        session?.Dispose();
        sentinel?.Dispose();
    }

    /// <param name="largestMessage">Most bytes per MPI call; a small number makes small tensors take the way of large
    /// ones.</param>
    internal static DistributedRuntime Start(RankEnvironment environment, TimeSpan finishLimit, int largestMessage)
    {
        if (environment.Launcher == RankLauncher.None)
            return new DistributedRuntime(environment, null, null, largestMessage);
        // Before MPI, some of whose transports do not survive a fork.
        var sentinel = RankSentinel.Start(environment);
        using var deadline = new Timer(
            _ =>
                GiveUp(
                    $"MPI has not started within {StartLimit.TotalMinutes:0} minutes: other ranks did not "
                        + "start, or their machines cannot reach this one; ending the job."
                ),
            null,
            StartLimit,
            Timeout.InfiniteTimeSpan
        );
        try
        {
            return new DistributedRuntime(
                environment,
                MpiSession.Start(environment, finishLimit, GiveUp),
                sentinel,
                largestMessage
            );
        }
        catch (UserException)
        {
            sentinel.Dispose();
            throw;
        }

        // MPI_Abort is not allowed before MPI_Init has ended, nor once MPI_Finalize has begun; launchers end the job
        // when a rank is killed.
        void GiveUp(string message)
        {
            sentinel.Told();
            Console.Error.WriteLine($"longnet: rank {environment.Rank}: {message}");
            Console.Error.Flush();
            Process.GetCurrentProcess().Kill();
        }
    }
}
