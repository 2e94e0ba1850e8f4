using System.Runtime.InteropServices;
using System.Text;
using LongNet.Core;

namespace LongNet.Distributed.Mpi;

/// <summary>
/// The functions of whichever MPI library the launcher belongs to, found by symbol at run time. All handles pass as
/// <see cref="nint"/>, which serves pointers (Open MPI, standard ABI) and integers (MPICH) alike; counts are bytes.
/// </summary>
internal sealed unsafe partial class MpiNative
{
    // Above every MPI's MPI_MAX_ERROR_STRING.
    private const int LongestErrorText = 8192;

    private readonly delegate* unmanaged<nint, nint, int, int*, int> initThread;
    private readonly delegate* unmanaged<int> finalize;
    private readonly delegate* unmanaged<nint, int, int> abort;
    private readonly delegate* unmanaged<int, byte*, int*, int> errorString;
    private readonly delegate* unmanaged<nint, int*, int> commRank;
    private readonly delegate* unmanaged<nint, int*, int> commSize;
    private readonly delegate* unmanaged<nint, int, int, nint*, int> commSplit;
    private readonly delegate* unmanaged<nint*, int> commFree;
    private readonly delegate* unmanaged<nint, int> barrier;
    private readonly delegate* unmanaged<void*, int, nint, int, nint, int> bcast;
    private readonly delegate* unmanaged<void*, int, nint, void*, int, nint, nint, int> allgather;
    private readonly delegate* unmanaged<void*, int, nint, void*, int*, int*, nint, nint, int> allgatherv;
    private readonly delegate* unmanaged<void*, int*, int*, nint, void*, int*, int*, nint, nint, int> alltoallv;

    private MpiNative(string libraryName, nint library)
    {
        LibraryName = libraryName;
        Abi = MpiAbi.Of(library);
        initThread = (delegate* unmanaged<nint, nint, int, int*, int>)Find("MPI_Init_thread");
        finalize = (delegate* unmanaged<int>)Find("MPI_Finalize");
        abort = (delegate* unmanaged<nint, int, int>)Find("MPI_Abort");
        errorString = (delegate* unmanaged<int, byte*, int*, int>)Find("MPI_Error_string");
        commRank = (delegate* unmanaged<nint, int*, int>)Find("MPI_Comm_rank");
        commSize = (delegate* unmanaged<nint, int*, int>)Find("MPI_Comm_size");
        commSplit = (delegate* unmanaged<nint, int, int, nint*, int>)Find("MPI_Comm_split");
        commFree = (delegate* unmanaged<nint*, int>)Find("MPI_Comm_free");
        barrier = (delegate* unmanaged<nint, int>)Find("MPI_Barrier");
        bcast = (delegate* unmanaged<void*, int, nint, int, nint, int>)Find("MPI_Bcast");
        allgather = (delegate* unmanaged<void*, int, nint, void*, int, nint, nint, int>)Find("MPI_Allgather");
        allgatherv = (delegate* unmanaged<void*, int, nint, void*, int*, int*, nint, nint, int>)Find("MPI_Allgatherv");
        alltoallv = (delegate* unmanaged<void*, int*, int*, nint, void*, int*, int*, nint, nint, int>)Find("MPI_Alltoallv");

        nint Find(string symbol) => NativeLibrary.TryGetExport(library, symbol, out nint address)
            ? address
            : throw new UserException(
                $"The library {libraryName} exports no {symbol}, so it is no MPI library: set {RankEnvironment.LibraryVariable} to the one mpiexec belongs to.");
    }

    /// <summary>File name or path the library was loaded by.</summary>
    public string LibraryName { get; }

    public MpiAbi Abi { get; }

    /// <summary>Loads the library that belongs to the launcher. Initialises nothing.</summary>
    /// <exception cref="UserException">The library is missing; names the launcher, the file and the package.</exception>
    public static MpiNative Load(RankEnvironment environment)
    {
        // UCX would take over SIGSEGV, which .NET turns into NullReferenceException. Native code reads its own copy of the
        // environment, which Environment.SetEnvironmentVariable does not reach.
        _ = SetNativeVariable("UCX_ERROR_SIGNALS", "", 0);
        (string launcher, string[] files, string package) = environment.Launcher switch
        {
            RankLauncher.OpenMpi => ("Open MPI", new[] { "libmpi.so.40" }, "openmpi-bin libopenmpi3"),
            RankLauncher.Mpich => ("MPICH", new[] { "libmpich.so.12", "libmpi.so.12" }, "mpich"),
            _ => throw new ArgumentException("A process that no launcher started has no MPI library.", nameof(environment)),
        };
        if (environment.MpiLibrary is string named)
            files = [named];
        foreach (string file in files)
        {
            if (NativeLibrary.TryLoad(file, out nint library))
                return new MpiNative(file, library);
        }

        throw new UserException(
            $"{launcher}'s mpiexec started this process, but its library {string.Join(" or ", files)} cannot be loaded: " +
            $"install {launcher} (Debian packages: {package}), or set {RankEnvironment.LibraryVariable} to the library's path.");
    }

    public void Initialize()
    {
        int provided = -1;
        Check(initThread(0, 0, Abi.ThreadMultiple, &provided), "MPI_Init_thread", "world");
        if (provided != Abi.ThreadMultiple)
        {
            throw new UserException(
                $"The MPI library {LibraryName} ({Abi.Name}) allows no calls from several threads (MPI_THREAD_MULTIPLE): install a build with thread support.");
        }
    }

    public void Complete() => Check(finalize(), "MPI_Finalize", "world");

    /// <summary>Ends all ranks of the job; the library may end this process before the call returns.</summary>
    public void Abort(int exitCode) => _ = abort(Abi.World, exitCode);

    public int Rank(nint communicator)
    {
        int rank = -1;
        Check(commRank(communicator, &rank), "MPI_Comm_rank", "new");
        return rank;
    }

    public int Size(nint communicator)
    {
        int size = -1;
        Check(commSize(communicator, &size), "MPI_Comm_size", "new");
        return size;
    }

    public nint Split(nint communicator, int color, int key, string group)
    {
        // Zeroed: MPICH writes only four of the eight bytes.
        nint made = 0;
        Check(commSplit(communicator, color, key, &made), "MPI_Comm_split", group);
        return made;
    }

    public void Free(nint communicator, string group) => Check(commFree(&communicator), "MPI_Comm_free", group);

    public void Barrier(nint communicator, string group) => Check(barrier(communicator), "MPI_Barrier", group);

    public void Broadcast(nint communicator, string group, byte* buffer, int bytes, int root) =>
        Check(bcast(buffer, bytes, Abi.Byte, root, communicator), "MPI_Bcast", group);

    public void AllGather(nint communicator, string group, byte* own, int bytes, byte* all) =>
        Check(allgather(own, bytes, Abi.Byte, all, bytes, Abi.Byte, communicator), "MPI_Allgather", group);

    /// <param name="own">This rank's part; null where it already lies in its place in <paramref name="all"/>.</param>
    public void AllGather(
        nint communicator, string group, byte* own, int ownBytes, byte* all, ReadOnlySpan<int> bytes, ReadOnlySpan<int> starts)
    {
        void* send = own is null ? (void*)Abi.InPlace : own;
        fixed (int* counts = bytes, displacements = starts)
            Check(allgatherv(send, ownBytes, Abi.Byte, all, counts, displacements, Abi.Byte, communicator), "MPI_Allgatherv", group);
    }

    public void AllToAll(
        nint communicator, string group,
        byte* send, ReadOnlySpan<int> sendBytes, ReadOnlySpan<int> sendStarts,
        byte* receive, ReadOnlySpan<int> receiveBytes, ReadOnlySpan<int> receiveStarts)
    {
        fixed (int* sendCounts = sendBytes, sendAt = sendStarts, receiveCounts = receiveBytes, receiveAt = receiveStarts)
        {
            Check(
                alltoallv(send, sendCounts, sendAt, Abi.Byte, receive, receiveCounts, receiveAt, Abi.Byte, communicator),
                "MPI_Alltoallv", group);
        }
    }

    [LibraryImport("libc", EntryPoint = "setenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int SetNativeVariable(string name, string value, int overwrite);

    private void Check(int code, string function, string group)
    {
        if (code == 0)
            return;
        byte* text = stackalloc byte[LongestErrorText];
        int length = 0;
        string reason = errorString(code, text, &length) == 0 ? Encoding.UTF8.GetString(text, length) : $"code {code}";
        throw new InvalidOperationException($"{function} failed in the group '{group}': {reason} ({LibraryName}).");
    }
}
