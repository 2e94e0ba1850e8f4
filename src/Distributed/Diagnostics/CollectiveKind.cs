namespace LongNet.Distributed.Diagnostics;

/// <summary>Which collective, or which side of a message.</summary>
internal enum CollectiveKind
{
    AllGather,
    ReduceScatter,
    AllReduce,
    Broadcast,
    AllToAll,
    Send,
    Receive,
    Barrier,
    Split,
}

/// <summary>Names for messages.</summary>
internal static class CollectiveKindNames
{
    /// <summary>The standard term, e.g. "all-gather".</summary>
    public static string Term(this CollectiveKind kind) =>
        kind switch
        {
            CollectiveKind.AllGather => "all-gather",
            CollectiveKind.ReduceScatter => "reduce-scatter",
            CollectiveKind.AllReduce => "all-reduce",
            CollectiveKind.Broadcast => "broadcast",
            CollectiveKind.AllToAll => "all-to-all",
            CollectiveKind.Send => "send",
            CollectiveKind.Receive => "receive",
            CollectiveKind.Barrier => "barrier",
            _ => "split",
        };
}
