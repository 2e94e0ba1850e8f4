using LongNet.Core;
using LongNet.Distributed.Mpi;

namespace LongNet.Distributed;

/// <summary>
/// The ranks of this job: one where no launcher started the process (no MPI is loaded), else MPI's. Made once per process,
/// at the start of the program, and disposed at its end.
/// </summary>
/// <remarks>
/// A rank that fails takes the others with it, which would else wait for it for ever: an unhandled exception prints its
/// message with the rank and ends the job with code 1; a process that exits without <see cref="Dispose"/> ends it with 86.
/// </remarks>
public sealed class DistributedRuntime : IDisposable
{
    /// <summary>Exit code of a job of which a rank left without <see cref="Dispose"/>.</summary>
    public const int LeftWithoutFinishing = 86;

    private static readonly TimeSpan DefaultFinishLimit = TimeSpan.FromSeconds(30);

    // Launchers tear the job down at an abort, and what a rank has just written may not have reached them yet.
    private static readonly TimeSpan TimeToBeHeard = TimeSpan.FromMilliseconds(500);

    private readonly MpiSession? session;

    private DistributedRuntime(RankEnvironment environment, MpiSession? session, int largestMessage)
    {
        Environment = environment;
        this.session = session;
        World = session is null
            ? ProcessGroup.Solo("world")
            : new ProcessGroup("0", "world", new MpiCommunicator(session, "world", largestMessage), session.Monitor);
        if (session is not null)
        {
            AppDomain.CurrentDomain.UnhandledException += OnUnhandledException;
            AppDomain.CurrentDomain.ProcessExit += OnProcessExit;
        }
    }

    public RankEnvironment Environment { get; }

    /// <summary>The MPI library; null where no launcher started the process.</summary>
    public MpiLibrary? Mpi => session is null ? null : MpiLibrary.Of(session.Native);

    /// <summary>All ranks. Owned by the runtime.</summary>
    public ProcessGroup World { get; }

    /// <summary>Joins the ranks the launcher started. Collective.</summary>
    /// <param name="environment">What the launcher said; read from this process where null.</param>
    /// <param name="finishLimit">How long <see cref="Dispose"/> waits for the other ranks; 30 s where null.</param>
    /// <exception cref="UserException">MPI's library is missing, or not the launcher's.</exception>
    public static DistributedRuntime Start(RankEnvironment? environment = null, TimeSpan? finishLimit = null) =>
        Start(environment ?? RankEnvironment.FromProcess(), finishLimit ?? DefaultFinishLimit, MpiCommunicator.DefaultLargestMessage);

    /// <summary>Ends all ranks at once with this exit code and does not return. For ranks that cannot tell the others.</summary>
    public void Abort(int exitCode)
    {
        Console.Out.Flush();
        Console.Error.Flush();
        AbortSession(exitCode);
        System.Environment.Exit(exitCode);
    }

    /// <summary>
    /// Leaves MPI. Collective: waits for the other ranks, at most for the finish limit, then ends the job. Where ranks end
    /// at very different times, call <see cref="ProcessGroup.Barrier"/> first.
    /// </summary>
    public void Dispose()
    {
        World.Dispose();
        session?.Dispose();
        AppDomain.CurrentDomain.UnhandledException -= OnUnhandledException;
        AppDomain.CurrentDomain.ProcessExit -= OnProcessExit;
    }

    /// <param name="largestMessage">Most bytes per MPI call; a small number makes small tensors take the way of large ones.</param>
    internal static DistributedRuntime Start(RankEnvironment environment, TimeSpan finishLimit, int largestMessage)
    {
        MpiSession? session = environment.Launcher == RankLauncher.None ? null : MpiSession.Start(environment, finishLimit);
        return new DistributedRuntime(environment, session, largestMessage);
    }

    private void OnUnhandledException(object sender, UnhandledExceptionEventArgs arguments)
    {
        string text = arguments.ExceptionObject is UserException user ? user.Message : arguments.ExceptionObject.ToString() ?? "";
        Tell(text);
        AbortSession(1);
    }

    private void OnProcessExit(object? sender, EventArgs arguments)
    {
        if (!session!.IsActive)
            return;
        Tell($"left without finishing; ending the job with code {LeftWithoutFinishing}.");
        AbortSession(LeftWithoutFinishing);
    }

    private void AbortSession(int exitCode)
    {
        if (session is null)
            return;
        Thread.Sleep(TimeToBeHeard);
        session.Abort(exitCode);
    }

    private void Tell(string text)
    {
        Console.Out.Flush();
        Console.Error.WriteLine($"rank {Environment.Rank}: {text}");
        Console.Error.Flush();
    }
}
