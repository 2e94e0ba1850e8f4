using System.Security.Cryptography;
using System.Text;
using LongNet.Core;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Launch;

namespace LongNet.Distributed.Backends.Mpi;

/// <summary>MPI from MPI_Init_thread to MPI_Finalize, which a process may call once.</summary>
internal sealed class MpiSession : IDisposable
{
    private readonly RankEnvironment environment;
    private readonly TimeSpan finishLimit;
    private readonly Action<string> giveUp;
    private int ended;

    private MpiSession(MpiNative native, RankEnvironment environment, TimeSpan finishLimit, Action<string> giveUp)
    {
        this.giveUp = giveUp;
        Native = native;
        Progress = new MpiProgress(native, oversubscribed: environment.LocalSize > CpuThreads.Processors().Machine);
        this.environment = environment;
        this.finishLimit = finishLimit;
    }

    public MpiNative Native { get; }

    public MpiProgress Progress { get; }

    /// <summary>The collectives of this process.</summary>
    public CollectiveMonitor Monitor { get; } = new();

    /// <summary>Tells this job apart from others; the same on all ranks.</summary>
    public string JobId { get; private set; } = "";

    /// <summary>Process ids of the other ranks on this machine.</summary>
    public IReadOnlyList<int> LocalProcesses { get; private set; } = [];

    /// <summary>Whether communicators may still be used and freed.</summary>
    public bool IsActive => Volatile.Read(ref ended) == 0;

    /// <summary>Loads and initialises MPI. Collective.</summary>
    /// <param name="finishLimit">How long <see cref="Dispose"/> waits for the other ranks.</param>
    /// <param name="giveUp">Reports a message and kills this process, for when MPI_Abort is not allowed.</param>
    /// <exception cref="UserException">No library, or one that is not the launcher's.</exception>
    public static MpiSession Start(RankEnvironment environment, TimeSpan finishLimit, Action<string> giveUp)
    {
        MpiNative native = MpiNative.Load(environment);
        native.Initialize();
        var session = new MpiSession(native, environment, finishLimit, giveUp);
        int size = native.Size(native.Abi.World);
        if (size != environment.Size)
        {
            // Each rank has a world of its own here, so it can finalize without the others.
            session.Dispose();
            throw new UserException(
                $"{environment.Launcher.Command()} started {environment.Size} ranks, but the MPI library "
                    + $"{native.LibraryName} ({native.Abi.Name}) sees {size}: "
                    + "library and launcher belong to different MPIs. Use the mpiexec of that library, or set "
                    + $"{RankEnvironment.LibraryVariable} to the launcher's library."
            );
        }

        session.Handshake();
        return session;
    }

    /// <summary>Ends all ranks at once. Does nothing after <see cref="Dispose"/>.</summary>
    public void Abort(int exitCode)
    {
        if (Interlocked.Exchange(ref ended, 1) == 0)
            Native.Abort(exitCode);
    }

    /// <summary>
    /// MPI_Finalize. Collective: waits for the other ranks, and kills this process after the limit, which ends the job.
    /// Otherwise a rank that finishes early would wait for ever for a rank that hangs.
    /// </summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref ended, 1) != 0)
            return;
        Progress.Dispose();
        using var deadline = new Timer(
            _ => giveUp($"finished, but MPI did not end within {finishLimit.TotalSeconds:0} s; ending the job."),
            null,
            finishLimit,
            Timeout.InfiniteTimeSpan
        );
        Native.Complete();
    }

    // The first exchange: ranks of different programs must not come to any other collective.
    private void Handshake()
    {
        const int DigestBytes = 32,
            TextBytes = 256;
        string own = ProgramIdentity.Current;
        byte[] digests = Native.AllGather<byte>(
            Native.Abi.World,
            "world",
            SHA256.HashData(Encoding.UTF8.GetBytes(own))
        );
        JobId = Convert.ToHexStringLower(
            Native.AllGather<byte>(Native.Abi.World, "world", RandomNumberGenerator.GetBytes(8)).AsSpan(0, 8)
        );
        long hostId = BitConverter.ToInt64(SHA256.HashData(Encoding.UTF8.GetBytes(Environment.MachineName)));
        long[] places = Native.AllGather<long>(Native.Abi.World, "world", [hostId, Environment.ProcessId]);
        LocalProcesses =
        [
            .. places
                .Chunk(2)
                .Where(place => place[0] == hostId && place[1] != Environment.ProcessId)
                .Select(place => (int)place[1]),
        ];
        int different = Enumerable
            .Range(0, environment.Size)
            .FirstOrDefault(rank =>
                !digests.AsSpan(rank * DigestBytes, DigestBytes).SequenceEqual(digests.AsSpan(0, DigestBytes))
            );
        if (different == 0)
            return;
        var text = new byte[TextBytes];
        Encoding.UTF8.GetBytes(own.AsSpan(0, Math.Min(own.Length, TextBytes)), text);
        byte[] texts = Native.AllGather<byte>(Native.Abi.World, "world", text);
        Dispose();
        throw new AgreedUserException(
            $"Rank {different} runs {Text(different)}, and rank 0 runs {Text(0)}: give every machine the same program."
        );

        string Text(int rank) => Encoding.UTF8.GetString(texts, rank * TextBytes, TextBytes).TrimEnd('\0');
    }
}
