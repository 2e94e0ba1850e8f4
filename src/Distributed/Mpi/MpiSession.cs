using System.Diagnostics;
using LongNet.Core;
using LongNet.Distributed.Diagnostics;

namespace LongNet.Distributed.Mpi;

/// <summary>MPI from MPI_Init_thread to MPI_Finalize: once per process, as MPI has it.</summary>
internal sealed class MpiSession : IDisposable
{
    private readonly RankEnvironment environment;
    private readonly TimeSpan finishLimit;
    private int ended;

    private MpiSession(MpiNative native, RankEnvironment environment, TimeSpan finishLimit)
    {
        Native = native;
        Progress = new MpiProgress(native, crowded: environment.LocalSize > CpuThreads.Processors().Machine);
        this.environment = environment;
        this.finishLimit = finishLimit;
    }

    public MpiNative Native { get; }

    public MpiProgress Progress { get; }

    /// <summary>What this process knows of its collectives.</summary>
    public CollectiveMonitor Monitor { get; } = new();

    /// <summary>Whether communicators may still be used and freed.</summary>
    public bool IsActive => Volatile.Read(ref ended) == 0;

    /// <summary>Loads and initialises MPI. Collective.</summary>
    /// <param name="finishLimit">How long <see cref="Dispose"/> waits for the other ranks.</param>
    /// <exception cref="UserException">No library, or one that is not the launcher's.</exception>
    public static MpiSession Start(RankEnvironment environment, TimeSpan finishLimit)
    {
        MpiNative native = MpiNative.Load(environment);
        native.Initialize();
        var session = new MpiSession(native, environment, finishLimit);
        int size = native.Size(native.Abi.World);
        if (size != environment.Size)
        {
            // Every rank sits in a world of its own here, so each can finalise without the others.
            session.Dispose();
            throw new UserException(
                $"{environment.Launcher}'s mpiexec started {environment.Size} ranks, but the MPI library {native.LibraryName} ({native.Abi.Name}) sees {size}: " +
                $"library and launcher belong to different MPIs. Use the mpiexec of that library, or set {RankEnvironment.LibraryVariable} to the launcher's library.");
        }

        return session;
    }

    /// <summary>Ends all ranks at once. Does nothing after <see cref="Dispose"/>.</summary>
    public void Abort(int exitCode)
    {
        if (Interlocked.Exchange(ref ended, 1) == 0)
            Native.Abort(exitCode);
    }

    /// <summary>
    /// MPI_Finalize. Collective: waits for the other ranks, and kills this process after the limit, which ends the job,
    /// because a rank that finishes early would otherwise wait for ever for one that is stuck.
    /// </summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref ended, 1) != 0)
            return;
        Progress.Dispose();
        using var deadline = new Timer(_ => GiveUp(), null, finishLimit, Timeout.InfiniteTimeSpan);
        Native.Complete();
    }

    private void GiveUp()
    {
        Console.Error.WriteLine(
            $"rank {environment.Rank}: finished, but other ranks did not within {finishLimit.TotalSeconds:0} s; ending the job.");
        Console.Error.Flush();
        // MPI_Abort is not allowed once MPI_Finalize has begun; launchers end the job when a rank is killed.
        Process.GetCurrentProcess().Kill();
    }
}
