namespace LongNet.Distributed.Collectives;

/// <summary>What carries tensors between ranks that do not lie in the host's memory.</summary>
public enum DeviceTransport
{
    /// <summary>
    /// NCCL for CUDA tensors where it can: its library is there on every rank of the group, and no two ranks share a
    /// GPU. The host otherwise, which rank 0 then reports once. The host for every other device.
    /// </summary>
    Auto,

    /// <summary>NCCL for CUDA tensors; where it cannot, every rank throws. The host for every other device.</summary>
    Nccl,

    /// <summary>The host: a copy in its memory travels by MPI.</summary>
    Host,
}
