namespace LongNet.Distributed.Diagnostics;

/// <summary>Who keeps the tensors of a collective alive until it is completed.</summary>
internal enum TensorLifetime
{
    /// <summary>
    /// The transfer, by handles of its own: the call returns before the collective is completed, and the caller may
    /// dispose its tensors meanwhile.
    /// </summary>
    KeptByTransfer,

    /// <summary>The caller, who waits for the collective and so cannot dispose its tensors meanwhile.</summary>
    KeptByCaller,
}
