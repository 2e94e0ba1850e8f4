namespace LongNet.Distributed.Diagnostics;

/// <summary>A wait of a device for a collective, which no thread of the host takes part in.</summary>
internal interface IDeviceWait
{
    /// <summary>Does not block. Not called again once it has returned a time.</summary>
    /// <returns>Seconds; null where the device has not come so far.</returns>
    double? TryFinish();
}
