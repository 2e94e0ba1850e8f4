using System.Diagnostics;
using LongNet.Core;
using LongNet.Distributed.Backends;
using LongNet.Distributed.Backends.Mpi;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Launch;

namespace LongNet.Distributed.Lifetime;

/// <summary>
/// The ranks of this job: MPI's, or one rank without MPI where no launcher started the process. Made once per process,
/// at the start of the program, and disposed at its end.
/// </summary>
/// <remarks>
/// A rank that fails ends the job, because the other ranks would wait for it for ever. An unhandled exception is
/// reported with the rank, and ends the job with <see cref="ExitCode.Error"/>; a process that exits without
/// <see cref="Dispose"/>, with <see cref="ExitCode.RankLeft"/>; a collective that does not finish within
/// <see cref="CollectiveMonitor.Timeout"/>, with <see cref="ExitCode.CollectiveTimeout"/>. Every rank then writes its
/// flight record into <see cref="CollectiveMonitor.RecordFolder"/>.
/// </remarks>
public sealed class DistributedRuntime : IDisposable
{
    // For MPI_Finalize, once all ranks have called it.
    private static readonly TimeSpan DefaultFinishLimit = TimeSpan.FromSeconds(30);

    // Before MPI_Init, ranks load their program and libraries. Over a shared file system that can take minutes.
    private static readonly TimeSpan StartLimit = TimeSpan.FromMinutes(5);

    private readonly MpiSession? session;
    private readonly RankSentinel? sentinel;
    private readonly JobTermination? termination;
    private readonly DeviceTransportChoice devices = new();
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
                new DeviceCommunicator(
                    new MpiCommunicator(session, "world", largestMessage),
                    "world",
                    session.Monitor,
                    devices
                ),
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

    /// <summary>
    /// What carries tensors that do not lie in the host's memory, from the first collective of one on. The same on all
    /// ranks.
    /// </summary>
    public DeviceTransport DeviceTransport
    {
        get => devices.Transport;
        set => devices.Transport = value;
    }

    /// <summary>Joins the ranks the launcher started. Collective.</summary>
    /// <param name="environment">This rank's place in the job; read from the launcher's variables where null.</param>
    /// <param name="finishLimit">How long <see cref="Dispose"/> waits for MPI to end, once all ranks have called it; 30
    /// s where null.</param>
    /// <exception cref="UserException">MPI's library is missing, or not the launcher's.</exception>
    /// <exception cref="AgreedUserException">Ranks run different programs.</exception>
    public static DistributedRuntime Start(RankEnvironment? environment = null, TimeSpan? finishLimit = null) =>
        Start(
            environment ?? RankEnvironment.FromProcess(),
            finishLimit ?? DefaultFinishLimit,
            MpiCommunicator.DefaultLargestMessage
        );

    /// <summary>
    /// Reports an error of this rank and ends all ranks at once, for failures that the other ranks do not see. Returns
    /// only where there is no job to end, because no launcher started the process.
    /// </summary>
    public void Fail(Exception error, int exitCode)
    {
        ArgumentNullException.ThrowIfNull(error);
        termination?.Fail(error, exitCode);
    }

    /// <summary>
    /// From now on the first SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 to this rank does not end it, but asks the program to
    /// stop; a signal more than half a second later ends it at once. For programs that save something first: all ranks
    /// must agree on where to stop.
    /// </summary>
    /// <returns>
    /// The request, with the signal once there was one. Owned by the runtime, at whose end signals have their former
    /// effect.
    /// </returns>
    internal StopRequest DeferSignals() => request ??= termination?.DeferSignals() ?? new StopRequest();

    /// <summary>
    /// Keeps this rank from writing a flight record from now on. For a program that has obeyed a
    /// <see cref="StopRequest"/> and removes the records that its ranks wrote at the signal, which they did in case the
    /// launcher kills them.
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

    /// <param name="largestMessage">Most bytes per MPI call. Tests pass a small number, so that small tensors are split
    /// as large ones are.</param>
    internal static DistributedRuntime Start(RankEnvironment environment, TimeSpan finishLimit, int largestMessage)
    {
        if (environment.Launcher == RankLauncher.None)
            return new DistributedRuntime(environment, null, null, largestMessage);
        // Before MPI, because some of its transports do not survive a fork.
        var sentinel = RankSentinel.Start(environment);
        var lastResort = new LastResort(environment, sentinel);
        using Timer deadline = new(
            _ =>
                lastResort.Kill(
                    $"MPI has not started within {StartLimit.TotalMinutes:0} minutes: other ranks did not "
                        + "start, or their machines cannot reach this one; ending the job."
                ),
            null,
            StartLimit,
            Timeout.InfiniteTimeSpan
        );
        try
        {
            MpiSession session = MpiSession.Start(environment, finishLimit, lastResort.Kill);
            return new DistributedRuntime(environment, session, sentinel, largestMessage);
        }
        catch (UserException)
        {
            sentinel.Dispose();
            throw;
        }
    }

    /// <summary>
    /// How a rank ends the job where MPI_Abort is not allowed: before MPI_Init has returned, and once MPI_Finalize has
    /// begun. It reports why and kills its own process, after which the launcher ends the other ranks.
    /// </summary>
    private sealed record LastResort(RankEnvironment Rank, RankSentinel Sentinel)
    {
        public void Kill(string message)
        {
            Sentinel.SetReported();
            Console.Error.WriteLine($"longnet: rank {Rank.Rank}: {message}");
            Console.Error.Flush();
            Process.GetCurrentProcess().Kill();
        }
    }
}
