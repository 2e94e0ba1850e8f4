using System.Runtime.InteropServices;
using System.Text;
using LongNet.Core;
using LongNet.Distributed.Launch;

namespace LongNet.Distributed.Backends.Mpi;

/// <summary>
/// The functions of whichever MPI library the launcher belongs to, found by symbol at run time. All handles pass as
/// <see cref="nint"/>, which serves pointers (Open MPI, standard ABI) and integers (MPICH) alike; counts are bytes.
/// </summary>
internal sealed unsafe partial class MpiNative
{
    // Above every MPI's MPI_MAX_ERROR_STRING and MPI_MAX_LIBRARY_VERSION_STRING.
    private const int LongestText = 8192;

    private readonly delegate* unmanaged<nint, nint, int, int*, int> initThread;
    private readonly delegate* unmanaged<int> finalize;
    private readonly delegate* unmanaged<nint, int, int> abort;
    private readonly delegate* unmanaged<int, byte*, int*, int> errorString;
    private readonly delegate* unmanaged<byte*, int*, int> getLibraryVersion;
    private readonly delegate* unmanaged<nint, int*, int> commRank;
    private readonly delegate* unmanaged<nint, int*, int> commSize;
    private readonly delegate* unmanaged<nint, int, int, nint*, int> commSplit;
    private readonly delegate* unmanaged<nint*, int> commFree;
    private readonly delegate* unmanaged<nint, nint, int> commSetErrorHandler;
    private readonly delegate* unmanaged<nint, nint*, int> commDuplicate;
    private readonly delegate* unmanaged<void*, int, nint, void*, int, nint, nint, int> allgather;
    private readonly delegate* unmanaged<void*, int, nint, void*, int*, int*, nint, nint, nint*, int> iallgatherv;
    private readonly delegate* unmanaged<void*, int, nint, int, nint, nint*, int> ibcast;
    private readonly delegate* unmanaged<nint, nint*, int> ibarrier;
    private readonly delegate* unmanaged<void*, int, nint, int, int, nint, nint*, int> isend;
    private readonly delegate* unmanaged<void*, int, nint, int, int, nint, nint*, int> irecv;
    private readonly delegate* unmanaged<nint*, int*, void*, int> test;
    private readonly delegate* unmanaged<int, int, nint, int*, void*, int> iprobe;
    private readonly delegate* unmanaged<void*, nint, int*, int> getCount;

    private MpiNative(string libraryName, nint library)
    {
        LibraryName = libraryName;
        Abi = MpiAbi.Of(library);
        initThread = (delegate* unmanaged<nint, nint, int, int*, int>)Find("MPI_Init_thread");
        finalize = (delegate* unmanaged<int>)Find("MPI_Finalize");
        abort = (delegate* unmanaged<nint, int, int>)Find("MPI_Abort");
        errorString = (delegate* unmanaged<int, byte*, int*, int>)Find("MPI_Error_string");
        getLibraryVersion = (delegate* unmanaged<byte*, int*, int>)Find("MPI_Get_library_version");
        commRank = (delegate* unmanaged<nint, int*, int>)Find("MPI_Comm_rank");
        commSize = (delegate* unmanaged<nint, int*, int>)Find("MPI_Comm_size");
        commSplit = (delegate* unmanaged<nint, int, int, nint*, int>)Find("MPI_Comm_split");
        commFree = (delegate* unmanaged<nint*, int>)Find("MPI_Comm_free");
        commSetErrorHandler = (delegate* unmanaged<nint, nint, int>)Find("MPI_Comm_set_errhandler");
        commDuplicate = (delegate* unmanaged<nint, nint*, int>)Find("MPI_Comm_dup");
        allgather = (delegate* unmanaged<void*, int, nint, void*, int, nint, nint, int>)Find("MPI_Allgather");
        iallgatherv = (delegate* unmanaged<void*, int, nint, void*, int*, int*, nint, nint, nint*, int>)Find(
            "MPI_Iallgatherv"
        );
        ibcast = (delegate* unmanaged<void*, int, nint, int, nint, nint*, int>)Find("MPI_Ibcast");
        ibarrier = (delegate* unmanaged<nint, nint*, int>)Find("MPI_Ibarrier");
        isend = (delegate* unmanaged<void*, int, nint, int, int, nint, nint*, int>)Find("MPI_Isend");
        irecv = (delegate* unmanaged<void*, int, nint, int, int, nint, nint*, int>)Find("MPI_Irecv");
        test = (delegate* unmanaged<nint*, int*, void*, int>)Find("MPI_Test");
        iprobe = (delegate* unmanaged<int, int, nint, int*, void*, int>)Find("MPI_Iprobe");
        getCount = (delegate* unmanaged<void*, nint, int*, int>)Find("MPI_Get_count");

        nint Find(string symbol) =>
            NativeLibrary.TryGetExport(library, symbol, out nint address)
                ? address
                : throw new UserException(
                    $"The library {libraryName} exports no {symbol}, so it is no MPI library: set "
                        + $"{RankEnvironment.LibraryVariable} to the one mpiexec belongs to."
                );
    }

    /// <summary>File name or path the library was loaded by.</summary>
    public string LibraryName { get; }

    public MpiAbi Abi { get; }

    /// <summary>The library's own name and version, often with lines about how it was built.</summary>
    public string LibraryVersion()
    {
        byte* text = stackalloc byte[LongestText];
        int length = 0;
        Check(getLibraryVersion(text, &length), "MPI_Get_library_version", "world");
        return Encoding.UTF8.GetString(text, length).TrimEnd('\0');
    }

    /// <summary>Loads the library that belongs to the launcher. Initialises nothing.</summary>
    /// <exception cref="UserException">The library is missing; names the launcher, the file and the
    /// package.</exception>
    public static MpiNative Load(RankEnvironment environment)
    {
        // UCX would take over SIGSEGV, which .NET turns into NullReferenceException. Native code reads its own copy of
        // the environment, which Environment.SetEnvironmentVariable does not reach.
        _ = SetNativeVariable("UCX_ERROR_SIGNALS", "", 0);
        (string mpi, string[] files, string package) = environment.Launcher switch
        {
            RankLauncher.OpenMpi or RankLauncher.SlurmPmix => (
                "Open MPI",
                new[] { "libmpi.so.40" },
                "openmpi-bin libopenmpi3"
            ),
            RankLauncher.Mpich or RankLauncher.SlurmPmi2 => (
                "MPICH",
                new[] { "libmpich.so.12", "libmpi.so.12" },
                "mpich"
            ),
            _ => throw new ArgumentException(
                "A process that no launcher started has no MPI library.",
                nameof(environment)
            ),
        };
        if (environment.MpiLibrary is string named)
            files = [named];
        foreach (string file in files)
        {
            if (NativeLibrary.TryLoad(file, out nint library))
                return new MpiNative(file, library);
        }

        throw new UserException(
            $"{environment.Launcher.Command()} started this process, but {mpi}'s library "
                + $"{string.Join(" or ", files)} cannot be loaded: "
                + $"install {mpi} (Debian packages: {package}), or set {RankEnvironment.LibraryVariable} to the "
                + "library's path."
        );
    }

    public void Initialize()
    {
        int provided = -1;
        Check(initThread(0, 0, Abi.ThreadMultiple, &provided), "MPI_Init_thread", "world");
        if (provided != Abi.ThreadMultiple)
        {
            throw new UserException(
                $"The MPI library {LibraryName} ({Abi.Name}) allows no calls from several threads "
                    + "(MPI_THREAD_MULTIPLE): install a build with thread support."
            );
        }

        // So that a rank can report which collective failed. Communicators made from this one inherit the handler.
        if (Abi.ErrorsReturn != 0)
            Check(commSetErrorHandler(Abi.World, Abi.ErrorsReturn), "MPI_Comm_set_errhandler", "world");
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

    public nint Duplicate(nint communicator, string group)
    {
        nint made = 0;
        Check(commDuplicate(communicator, &made), "MPI_Comm_dup", group);
        return made;
    }

    /// <summary>Blocking, of small managed values; for setting up.</summary>
    /// <returns>Every rank's values, in rank order.</returns>
    public T[] AllGather<T>(nint communicator, string group, ReadOnlySpan<T> own)
        where T : unmanaged
    {
        var all = new T[own.Length * Size(communicator)];
        int bytes = own.Length * sizeof(T);
        fixed (
            T* send = own,
                receive = all
        )
            Check(allgather(send, bytes, Abi.Byte, receive, bytes, Abi.Byte, communicator), "MPI_Allgather", group);
        return all;
    }

    /// <param name="own">This rank's part; 0 where it already lies in its place in <paramref name="all"/>.</param>
    /// <param name="bytes">Every rank's bytes; pinned, unchanged until the request is done.</param>
    /// <param name="starts">Where every rank's part begins; likewise.</param>
    /// <returns>The request, for <see cref="Test"/>.</returns>
    public nint StartAllGather(
        nint communicator,
        string group,
        nint own,
        int ownBytes,
        nint all,
        int[] bytes,
        int[] starts
    )
    {
        nint request = 0;
        void* send = own == 0 ? (void*)Abi.InPlace : (void*)own;
        Check(
            iallgatherv(
                send,
                ownBytes,
                Abi.Byte,
                (void*)all,
                Pinned(bytes),
                Pinned(starts),
                Abi.Byte,
                communicator,
                &request
            ),
            "MPI_Iallgatherv",
            group
        );
        return request;
    }

    public nint StartBroadcast(nint communicator, string group, nint buffer, int bytes, int root)
    {
        nint request = 0;
        Check(ibcast((void*)buffer, bytes, Abi.Byte, root, communicator, &request), "MPI_Ibcast", group);
        return request;
    }

    public nint StartBarrier(nint communicator, string group)
    {
        nint request = 0;
        Check(ibarrier(communicator, &request), "MPI_Ibarrier", group);
        return request;
    }

    public nint StartSend(nint communicator, string group, nint buffer, int bytes, int destination, int tag)
    {
        nint request = 0;
        Check(isend((void*)buffer, bytes, Abi.Byte, destination, tag, communicator, &request), "MPI_Isend", group);
        return request;
    }

    public nint StartReceive(nint communicator, string group, nint buffer, int bytes, int source, int tag)
    {
        nint request = 0;
        Check(irecv((void*)buffer, bytes, Abi.Byte, source, tag, communicator, &request), "MPI_Irecv", group);
        return request;
    }

    /// <summary>Lets MPI progress, and returns whether this request is done; a done request is freed.</summary>
    public bool Test(nint request, string group)
    {
        int done = 0;
        byte* status = stackalloc byte[MpiAbi.StatusBytes];
        Check(test(&request, &done, status), "MPI_Test", group);
        return done != 0;
    }

    /// <summary>Looks for a message that has arrived and was not received yet.</summary>
    /// <returns>Its sender, its tag and its length; null where there is none.</returns>
    public (int Source, int Tag, int Bytes)? Probe(nint communicator, string group)
    {
        int found = 0,
            bytes = 0;
        byte* status = stackalloc byte[MpiAbi.StatusBytes];
        Check(iprobe(Abi.AnySource, Abi.AnyTag, communicator, &found, status), "MPI_Iprobe", group);
        if (found == 0)
            return null;
        Check(getCount(status, Abi.Byte, &bytes), "MPI_Get_count", group);
        return (*(int*)(status + Abi.SourceOffset), *(int*)(status + Abi.SourceOffset + sizeof(int)), bytes);
    }

    [LibraryImport("libc", EntryPoint = "setenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int SetNativeVariable(string name, string value, int overwrite);

    private static int* Pinned(int[] array) => (int*)Marshal.UnsafeAddrOfPinnedArrayElement(array, 0);

    private void Check(int code, string function, string group)
    {
        if (code != 0)
            throw new InvalidOperationException(
                $"{function} failed in the group '{group}': {Text(code)} ({LibraryName})."
            );
    }

    private string Text(int code)
    {
        byte* text = stackalloc byte[LongestText];
        int length = 0;
        return errorString(code, text, &length) == 0 ? Encoding.UTF8.GetString(text, length) : $"code {code}";
    }
}
