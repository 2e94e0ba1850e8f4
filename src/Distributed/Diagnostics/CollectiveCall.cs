namespace LongNet.Distributed.Diagnostics;

/// <summary>
/// The record of one collective that one rank called: what it is, who called it, and how far it has come. Messages,
/// the monitor and flight records read it.
/// </summary>
internal sealed class CollectiveCall
{
    // Called when the text is read: a small collective takes less time than its description.
    private readonly Func<string> describe;
    private readonly CallerLocation caller;
    private string? signature,
        callSite;

    // Stopwatch ticks; 0: not yet. Written by the thread that advances the transfer, read by the watchdog.
    private long enqueuedAt,
        startedAt,
        completedAt;

    /// <param name="describe">Makes <see cref="Signature"/>.</param>
    /// <param name="caller">Makes <see cref="CallSite"/>.</param>
    internal CollectiveCall(Func<string> describe, CallerLocation caller) =>
        (this.describe, this.caller) = (describe, caller);

    /// <summary>The group's identity, the same on all its ranks.</summary>
    public required string GroupId { get; init; }

    public required string GroupName { get; init; }

    /// <summary>World ranks of the group, in group order.</summary>
    public required IReadOnlyList<int> Members { get; init; }

    /// <summary>
    /// 1 for the group's first collective; the same on all ranks for the same collective. Sends and receives are
    /// counted per peer and direction.
    /// </summary>
    public required long Number { get; init; }

    public required CollectiveKind Kind { get; init; }

    /// <summary>What all ranks must agree about, e.g. "[4, 8] Float32, sum". Empty for barriers.</summary>
    public string Signature => signature ??= describe();

    /// <summary>Payload of this rank, in bytes.</summary>
    public required long Bytes { get; init; }

    /// <summary>File and line of the call, e.g. "TrainingStep.cs:88".</summary>
    public string CallSite => callSite ??= $"{caller}";

    /// <summary>What the program was doing, e.g. "step 17: backward"; empty where it did not set it.</summary>
    public required string Activity { get; init; }

    /// <summary>When it was called, in ticks of <see cref="System.Diagnostics.Stopwatch"/>.</summary>
    public long EnqueuedAt
    {
        get => Volatile.Read(ref enqueuedAt);
        internal set => Volatile.Write(ref enqueuedAt, value);
    }

    /// <summary>When the group's earlier collectives had ended and this one began; 0: not yet.</summary>
    public long StartedAt
    {
        get => Volatile.Read(ref startedAt);
        internal set => Volatile.Write(ref startedAt, value);
    }

    /// <summary>When this rank's part was done; 0: not yet.</summary>
    public long CompletedAt
    {
        get => Volatile.Read(ref completedAt);
        internal set => Volatile.Write(ref completedAt, value);
    }

    // For groups of one rank, whose collectives are not monitored.
    internal static CollectiveCall None { get; } =
        new(() => "", default)
        {
            GroupId = "",
            GroupName = "",
            Members = [],
            Number = 0,
            Kind = CollectiveKind.Barrier,
            Bytes = 0,
            Activity = "",
        };

    /// <summary>Who keeps the tensors alive until the collective is completed.</summary>
    internal TensorLifetime Lifetime { get; init; }

    // The monitor's entry of it while it is in flight.
    internal LinkedListNode<CollectiveCall>? Place { get; set; }

    // A copy for an exchange that serves this call but that the program did not call: the monitor does not list it.
    internal CollectiveCall Untracked() =>
        new(describe, caller)
        {
            GroupId = GroupId,
            GroupName = GroupName,
            Members = Members,
            Number = Number,
            Kind = Kind,
            Bytes = 0,
            Activity = Activity,
        };

    /// <summary>E.g. "all-reduce #118 of the group 'world' ([4, 8] Float32, sum)".</summary>
    public override string ToString() =>
        $"{Kind.Term()} #{Number} of the group '{GroupName}'" + (Signature.Length == 0 ? "" : $" ({Signature})");
}
