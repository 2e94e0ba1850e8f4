using LongNet.Distributed.Diagnostics;

namespace LongNet.Trainer.Loop;

/// <summary>The time and the communication of one step, from when it is made.</summary>
/// <param name="monitor">Of this process's collectives.</param>
/// <param name="bytesSent">Reads how many bytes this rank has sent.</param>
/// <param name="clock">Read for the seconds.</param>
internal sealed class StepMeasurement(CollectiveMonitor monitor, Func<long> bytesSent, TimeProvider clock)
{
    private readonly long since = clock.GetTimestamp();
    private readonly long bytesBefore = bytesSent();
    private readonly double exposedBefore = monitor.ExposedCommunicationSeconds,
        inFlightBefore = monitor.InFlightCommunicationSeconds;

    public double Seconds => clock.GetElapsedTime(since).TotalSeconds;

    public long BytesSent => bytesSent() - bytesBefore;

    public double ExposedCommunicationSeconds => monitor.ExposedCommunicationSeconds - exposedBefore;

    public double InFlightCommunicationSeconds => monitor.InFlightCommunicationSeconds - inFlightBefore;
}
