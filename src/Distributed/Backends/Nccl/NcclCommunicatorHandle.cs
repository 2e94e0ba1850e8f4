using System.Runtime.InteropServices;

namespace LongNet.Distributed.Backends.Nccl;

/// <summary>
/// An ncclComm_t. It is destroyed where all its ranks have taken leave, and aborted where not, so that nothing waits
/// for it.
/// </summary>
internal sealed class NcclCommunicatorHandle : SafeHandle
{
    public NcclCommunicatorHandle(nint communicator)
        : base(0, ownsHandle: true) => SetHandle(communicator);

    public override bool IsInvalid => handle == 0;

    /// <summary>Whether ncclCommFinalize has come to its end.</summary>
    public bool IsFinalized { get; set; }

    protected override bool ReleaseHandle() =>
        !NcclNative.IsError(IsFinalized ? NcclNative.CommDestroy(handle) : NcclNative.CommAbort(handle));
}
