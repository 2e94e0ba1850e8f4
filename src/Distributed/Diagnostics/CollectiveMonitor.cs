using System.Diagnostics;

namespace LongNet.Distributed.Diagnostics;

/// <summary>
/// The collectives of a process: the last ones, those in flight, and the time they take. One per process, shared by all
/// its groups. All members may be called from any thread.
/// </summary>
public sealed class CollectiveMonitor
{
    /// <summary>How many collectives it keeps.</summary>
    public const int Capacity = 1000;

    private readonly Lock gate = new();
    private readonly CollectiveCall?[] ring = new CollectiveCall?[Capacity];
    private readonly LinkedList<CollectiveCall> open = [];

    // In the order in which the device comes to them.
    private readonly Queue<IDeviceWait> deviceWaits = [];
    private long recorded,
        waited,
        transferred,
        busySince;
    private int inFlight;
    private volatile string activity = "";
    private long activitySince = Stopwatch.GetTimestamp();

    private readonly DateTime startTime = TimeProvider.System.GetUtcNow().UtcDateTime;
    private readonly long startTicks = Stopwatch.GetTimestamp();

    /// <summary>How long a collective may take before the job ends.</summary>
    public TimeSpan Timeout { get; set; } = TimeSpan.FromSeconds(300);

    /// <summary>
    /// Whether ranks compare every collective before it runs. Must be the same on all ranks; makes all collectives
    /// blocking.
    /// </summary>
    public bool ChecksCollectives { get; set; }

    /// <summary>Where this rank's flight record is written when the job fails; null: nowhere.</summary>
    public string? RecordFolder { get; set; }

    /// <summary>What the program is doing, e.g. "step 17: backward"; reported where a rank is missing.</summary>
    public string Activity
    {
        get => activity;
        set
        {
            activity = value;
            Volatile.Write(ref activitySince, Stopwatch.GetTimestamp());
        }
    }

    /// <summary>How long the activity has lasted.</summary>
    public TimeSpan ActivityTime => Stopwatch.GetElapsedTime(Volatile.Read(ref activitySince));

    /// <summary>
    /// Seconds that callers, or GPUs in their place, have waited for collectives: communication that did not overlap
    /// with computation. A GPU's waits count once it is past them, as it is when a value that comes later was read.
    /// </summary>
    public double ExposedCommunicationSeconds
    {
        get
        {
            FinishDeviceWaits();
            return Seconds(Volatile.Read(ref waited));
        }
    }

    /// <summary>Seconds during which at least one collective was in flight, overlapped with computation or
    /// not.</summary>
    public double InFlightCommunicationSeconds
    {
        get
        {
            lock (gate)
                return Seconds(transferred + (inFlight > 0 ? Stopwatch.GetTimestamp() - busySince : 0));
        }
    }

    /// <summary>The last collectives, oldest first.</summary>
    internal IReadOnlyList<CollectiveCall> Recent()
    {
        lock (gate)
        {
            long first = Math.Max(0, recorded - Capacity);
            return [.. Enumerable.Range(0, (int)(recorded - first)).Select(i => ring[(first + i) % Capacity]!)];
        }
    }

    /// <summary>Collectives that were called and are not done, oldest first.</summary>
    internal IReadOnlyList<CollectiveCall> Open()
    {
        lock (gate)
            return [.. open];
    }

    /// <summary>A call's ticks as a time of day, UTC; null for 0.</summary>
    internal DateTime? TimeOf(long ticks) =>
        ticks == 0 ? null : startTime + Stopwatch.GetElapsedTime(startTicks, ticks);

    /// <summary>
    /// The first collective that has taken longer than <see cref="Timeout"/>; null where there is none.
    /// </summary>
    internal CollectiveCall? Overdue()
    {
        lock (gate)
        {
            foreach (CollectiveCall call in open)
            {
                if (Stopwatch.GetElapsedTime(call.StartedAt == 0 ? call.EnqueuedAt : call.StartedAt) > Timeout)
                    return call;
            }
        }

        return null;
    }

    internal void Enqueue(CollectiveCall call)
    {
        call.EnqueuedAt = Stopwatch.GetTimestamp();
        lock (gate)
        {
            ring[recorded++ % Capacity] = call;
            call.Place = open.AddLast(call);
        }
    }

    internal void Start(CollectiveCall call)
    {
        lock (gate)
        {
            call.StartedAt = Stopwatch.GetTimestamp();
            if (inFlight++ == 0)
                busySince = call.StartedAt;
        }
    }

    internal void Complete(CollectiveCall call)
    {
        lock (gate)
        {
            call.CompletedAt = Stopwatch.GetTimestamp();
            if (--inFlight == 0)
                transferred += call.CompletedAt - busySince;
            if (call.Place is { } place)
                open.Remove(place);
            call.Place = null;
        }
    }

    internal void AddWait(long ticks) => Interlocked.Add(ref waited, ticks);

    /// <summary>Adds a wait that a GPU makes later.</summary>
    internal void AddDeviceWait(IDeviceWait wait)
    {
        lock (deviceWaits)
            deviceWaits.Enqueue(wait);
        // So that no more are kept than the device is behind.
        FinishDeviceWaits();
    }

    private void FinishDeviceWaits()
    {
        lock (deviceWaits)
        {
            while (deviceWaits.TryPeek(out IDeviceWait? first) && first.TryFinish() is double seconds)
            {
                deviceWaits.Dequeue();
                AddWait((long)(seconds * Stopwatch.Frequency));
            }
        }
    }

    private static double Seconds(long ticks) => ticks / (double)Stopwatch.Frequency;
}
