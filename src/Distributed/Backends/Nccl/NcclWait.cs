using LongNet.Distributed.Diagnostics;

namespace LongNet.Distributed.Backends.Nccl;

/// <summary>How long the default stream waited for a collective, measured by the GPU.</summary>
/// <param name="context">The GPU's.</param>
/// <param name="first">A timed event of the default stream before the wait. Owned by this object.</param>
/// <param name="last">Likewise, after the wait.</param>
internal sealed class NcclWait(nint context, nint first, nint last) : IDeviceWait
{
    public double? TryFinish()
    {
        using (CudaDriver.Enter(context))
        {
            if (!CudaDriver.HasPassed(last))
                return null;
            double seconds = CudaDriver.Seconds(first, last);
            CudaDriver.Forget(first);
            CudaDriver.Forget(last);
            return seconds;
        }
    }
}
