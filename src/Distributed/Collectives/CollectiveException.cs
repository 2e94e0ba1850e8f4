using LongNet.Core;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// A collective that failed, or that ranks were about to call differently. Its message needs no stack trace.
/// </summary>
public sealed class CollectiveException : UserException
{
    public CollectiveException(string message, Exception? innerException = null, int? reportingRank = null)
        : base(message, innerException!) => ReportingRank = reportingRank;

    /// <summary>
    /// World rank that reports the message for all ranks that see the same failure; null where only this rank sees it.
    /// </summary>
    public int? ReportingRank { get; }
}
