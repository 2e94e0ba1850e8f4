using System.Runtime.InteropServices;

namespace LongNet.Distributed.Backends.Nccl;

/// <summary>
/// An ncclComm_t. It is destroyed if all its ranks have finalized it, and aborted otherwise, so that no rank waits for
/// it.
/// </summary>
internal sealed class NcclCommunicatorHandle : SafeHandle
{
    public NcclCommunicatorHandle(nint communicator)
        : base(0, ownsHandle: true) => SetHandle(communicator);

    public override bool IsInvalid => handle == 0;

    /// <summary>Whether ncclCommFinalize is completed.</summary>
    public bool IsFinalized { get; set; }

    protected override bool ReleaseHandle() =>
        !NcclNative.IsError(IsFinalized ? NcclNative.CommDestroy(handle) : NcclNative.CommAbort(handle));
}
