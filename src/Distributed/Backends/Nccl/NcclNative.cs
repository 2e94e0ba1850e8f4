using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace LongNet.Distributed.Backends.Nccl;

/// <summary>ncclResult_t.</summary>
internal enum NcclResult
{
    Success = 0,
    UnhandledCudaError = 1,
    SystemError = 2,
    InternalError = 3,
    InvalidArgument = 4,
    InvalidUsage = 5,
    RemoteError = 6,
    InProgress = 7,
}

/// <summary>ncclDataType_t of reductions; other collectives transfer bytes.</summary>
internal enum NcclType
{
    UInt8 = 1,
    Int64 = 4,
    Float32 = 7,
    Float64 = 8,
}

/// <summary>ncclRedOp_t.</summary>
internal enum NcclReduction
{
    Sum = 0,
    Max = 2,
    Min = 3,
    Average = 4,
}

/// <summary>ncclUniqueId: identifies a new communicator to its ranks. Passed by value.</summary>
internal unsafe struct NcclUniqueId
{
    public const int Length = 128;

    public fixed byte Content[Length];

    public static NcclUniqueId From(ReadOnlySpan<byte> bytes)
    {
        NcclUniqueId id;
        bytes.CopyTo(new Span<byte>(id.Content, Length));
        return id;
    }
}

/// <summary>
/// ncclConfig_t as NCCL 2.18 has it. Newer libraries add fields at its end, and take them as unset by its size and
/// version.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal struct NcclConfig
{
    private const int Unset = int.MinValue;

    public nuint Size;
    public uint Magic;
    public uint Version;
    public int Blocking;
    public int CgaClusterSize;
    public int MinCtas;
    public int MaxCtas;
    public nint NetName;
    public int SplitShare;

    // Where 2.18 has padding and 2.25 the traffic class.
    public int Reserved;

    /// <summary>
    /// Calls return at once with <see cref="NcclResult.InProgress"/>, so that a rank that never makes the call
    /// does not block this one.
    /// </summary>
    public static NcclConfig NonBlocking =>
        new()
        {
            Size = (nuint)Unsafe.SizeOf<NcclConfig>(),
            Magic = 0xcafebeef,
            Version = NcclLibrary.LeastVersion,
            Blocking = 0,
            CgaClusterSize = Unset,
            MinCtas = Unset,
            MaxCtas = Unset,
            NetName = 0,
            SplitShare = Unset,
            Reserved = Unset,
        };
}

/// <summary>The functions of nccl.h that are used here. <see cref="NcclLibrary"/> finds the library.</summary>
internal static unsafe partial class NcclNative
{
    public const string Library = "libnccl.so.2";

    [LibraryImport(Library, EntryPoint = "ncclGetVersion")]
    public static partial NcclResult GetVersion(int* version);

    [LibraryImport(Library, EntryPoint = "ncclGetErrorString")]
    public static partial byte* GetErrorString(NcclResult result);

    [LibraryImport(Library, EntryPoint = "ncclGetLastError")]
    public static partial byte* GetLastError(nint communicator);

    [LibraryImport(Library, EntryPoint = "ncclGetUniqueId")]
    public static partial NcclResult GetUniqueId(NcclUniqueId* id);

    /// <param name="communicator">May be written as long as the call is in progress.</param>
    [LibraryImport(Library, EntryPoint = "ncclCommInitRankConfig")]
    public static partial NcclResult CommInitRankConfig(
        nint* communicator,
        int ranks,
        NcclUniqueId id,
        int rank,
        NcclConfig* config
    );

    /// <param name="color">Not negative; or <see cref="NoColor"/>, with which a rank takes part in the call but gets no
    /// communicator.</param>
    /// <param name="made">Is written when the call is no longer in progress.</param>
    [LibraryImport(Library, EntryPoint = "ncclCommSplit")]
    public static partial NcclResult CommSplit(
        NcclCommunicatorHandle communicator,
        int color,
        int key,
        nint* made,
        NcclConfig* config
    );

    /// <summary>NCCL_SPLIT_NOCOLOR.</summary>
    public const int NoColor = -1;

    [LibraryImport(Library, EntryPoint = "ncclCommGetAsyncError")]
    public static partial NcclResult CommGetAsyncError(NcclCommunicatorHandle communicator, NcclResult* state);

    [LibraryImport(Library, EntryPoint = "ncclCommUserRank")]
    public static partial NcclResult CommUserRank(NcclCommunicatorHandle communicator, int* rank);

    [LibraryImport(Library, EntryPoint = "ncclCommCount")]
    public static partial NcclResult CommCount(NcclCommunicatorHandle communicator, int* ranks);

    [LibraryImport(Library, EntryPoint = "ncclCommFinalize")]
    public static partial NcclResult CommFinalize(NcclCommunicatorHandle communicator);

    // These two end a handle, so they take its value.
    [LibraryImport(Library, EntryPoint = "ncclCommDestroy")]
    public static partial NcclResult CommDestroy(nint communicator);

    [LibraryImport(Library, EntryPoint = "ncclCommAbort")]
    public static partial NcclResult CommAbort(nint communicator);

    [LibraryImport(Library, EntryPoint = "ncclGroupStart")]
    public static partial NcclResult GroupStart();

    [LibraryImport(Library, EntryPoint = "ncclGroupEnd")]
    public static partial NcclResult GroupEnd();

    [LibraryImport(Library, EntryPoint = "ncclAllGather")]
    public static partial NcclResult AllGather(
        nint send,
        nint receive,
        nuint sendCount,
        NcclType type,
        NcclCommunicatorHandle communicator,
        nint stream
    );

    [LibraryImport(Library, EntryPoint = "ncclReduceScatter")]
    public static partial NcclResult ReduceScatter(
        nint send,
        nint receive,
        nuint receiveCount,
        NcclType type,
        NcclReduction operation,
        NcclCommunicatorHandle communicator,
        nint stream
    );

    [LibraryImport(Library, EntryPoint = "ncclAllReduce")]
    public static partial NcclResult AllReduce(
        nint send,
        nint receive,
        nuint count,
        NcclType type,
        NcclReduction operation,
        NcclCommunicatorHandle communicator,
        nint stream
    );

    [LibraryImport(Library, EntryPoint = "ncclReduce")]
    public static partial NcclResult Reduce(
        nint send,
        nint receive,
        nuint count,
        NcclType type,
        NcclReduction operation,
        int root,
        NcclCommunicatorHandle communicator,
        nint stream
    );

    [LibraryImport(Library, EntryPoint = "ncclBroadcast")]
    public static partial NcclResult Broadcast(
        nint send,
        nint receive,
        nuint count,
        NcclType type,
        int root,
        NcclCommunicatorHandle communicator,
        nint stream
    );

    [LibraryImport(Library, EntryPoint = "ncclSend")]
    public static partial NcclResult Send(
        nint buffer,
        nuint count,
        NcclType type,
        int peer,
        NcclCommunicatorHandle communicator,
        nint stream
    );

    [LibraryImport(Library, EntryPoint = "ncclRecv")]
    public static partial NcclResult Receive(
        nint buffer,
        nuint count,
        NcclType type,
        int peer,
        NcclCommunicatorHandle communicator,
        nint stream
    );

    /// <summary>Whether a call failed: one that is still in progress did not.</summary>
    public static bool IsError(NcclResult result) => result is not (NcclResult.Success or NcclResult.InProgress);

    /// <summary>
    /// NCCL's words for a result, e.g. "unhandled cuda error (run with NCCL_DEBUG=INFO for details)".
    /// </summary>
    public static string Describe(NcclResult result) =>
        Marshal.PtrToStringUTF8((nint)GetErrorString(result)) ?? $"code {(int)result}";

    /// <exception cref="NcclException">The call failed; names the function and has NCCL's message.</exception>
    public static void Check(NcclResult result, string function)
    {
        if (!IsError(result))
            return;
        // NCCL's last message in this process, of any communicator. It has more details than the code, such as which
        // call of CUDA failed.
        string detail = Marshal.PtrToStringUTF8((nint)GetLastError(0))?.Trim() ?? "";
        throw new NcclException(
            $"{function}: {Describe(result)}{(detail.Length == 0 ? "" : $"; NCCL's last message: {detail}")}"
        );
    }
}
