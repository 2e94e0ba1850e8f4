using LongNet.Distributed.Backends.Staged;
using LongNet.Distributed.Collectives;

namespace LongNet.Distributed.Backends;

/// <summary>What all groups of a process share to carry tensors of devices.</summary>
internal sealed class DeviceTransportChoice : IDisposable
{
    private int noted;

    /// <summary>
    /// What carries them; the same on all ranks. A group that has carried a CUDA tensor already keeps to its way.
    /// </summary>
    public DeviceTransport Transport { get; set; }

    /// <summary>Host memory in which they travel.</summary>
    public StagingPool Staging { get; } = new();

    /// <summary>Reports once per process why CUDA tensors travel by the host.</summary>
    public void NoteHost(string reason)
    {
        if (Interlocked.Exchange(ref noted, 1) == 0)
            Console.Error.WriteLine(
                $"longnet: CUDA tensors travel between ranks through host memory, not by NCCL: {reason} "
                    + "parallel.device_transport: host chooses this without a note."
            );
    }

    public void Dispose() => Staging.Dispose();
}
