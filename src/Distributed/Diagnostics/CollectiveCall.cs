namespace LongNet.Distributed.Diagnostics;

/// <summary>One collective as one rank called it: what it was, where, and how far it came.</summary>
internal sealed class CollectiveCall
{
    // Made when it is asked for: a small collective takes less time than its description.
    private readonly Func<string> describe;
    private readonly string file;
    private readonly int line;
    private string? signature,
        callSite;

    // Stopwatch ticks; 0: not yet. Written by whichever thread moves the collective on, read by the watchdog.
    private long enqueuedAt,
        startedAt,
        completedAt;

    /// <param name="describe">Makes <see cref="Signature"/>.</param>
    /// <param name="file">Path of the calling source file.</param>
    /// <param name="line">Line in it.</param>
    internal CollectiveCall(Func<string> describe, string file, int line) =>
        (this.describe, this.file, this.line) = (describe, file, line);

    /// <summary>The group's identity, the same on all its ranks.</summary>
    public required string GroupId { get; init; }

    public required string GroupName { get; init; }

    /// <summary>World ranks of the group, in group order.</summary>
    public required IReadOnlyList<int> Members { get; init; }

    /// <summary>
    /// 1 for the group's first collective; the same on all ranks for the same collective. Sends and receives are
    /// counted per peer and direction.
    /// </summary>
    public required long Sequence { get; init; }

    public required CollectiveKind Kind { get; init; }

    /// <summary>What all ranks must agree about, e.g. "[4, 8] Float32, sum". Empty for barriers.</summary>
    public string Signature => signature ??= describe();

    /// <summary>Payload of this rank, in bytes.</summary>
    public required long Bytes { get; init; }

    /// <summary>File and line of the call, e.g. "TrainingStep.cs:88".</summary>
    public string CallSite => callSite ??= line == 0 ? Path.GetFileName(file) : $"{Path.GetFileName(file)}:{line}";

    /// <summary>What the program was at, e.g. "step 17: backward"; empty where it did not say.</summary>
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

    // For groups of one rank, which nobody watches.
    internal static CollectiveCall None { get; } =
        new(() => "", "", 0)
        {
            GroupId = "",
            GroupName = "",
            Members = [],
            Sequence = 0,
            Kind = CollectiveKind.Barrier,
            Bytes = 0,
            Activity = "",
        };

    // Whether the caller waits for it at once, so that nobody disposes its tensors before it is done.
    internal bool IsAwaited { get; init; }

    // Where the monitor lists it while it is under way.
    internal LinkedListNode<CollectiveCall>? Place { get; set; }

    // For what belongs to this call but is no collective of the program's.
    internal CollectiveCall Untracked() =>
        new(describe, file, line)
        {
            GroupId = GroupId,
            GroupName = GroupName,
            Members = Members,
            Sequence = Sequence,
            Kind = Kind,
            Bytes = 0,
            Activity = Activity,
        };

    /// <summary>E.g. "all-reduce #118 of the group 'world' ([4, 8] Float32, sum)".</summary>
    public override string ToString() =>
        $"{Kind.Term()} #{Sequence} of the group '{GroupName}'" + (Signature.Length == 0 ? "" : $" ({Signature})");
}
