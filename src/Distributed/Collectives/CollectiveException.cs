using LongNet.Core;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// A collective that failed, or that ranks were about to call differently. Its message is for people and needs no stack
/// trace.
/// </summary>
public sealed class CollectiveException : UserException
{
    /// <summary>
    /// How long the other ranks leave the word to the one that speaks for all: longer than it takes to ask who is
    /// missing, to be heard and to end the job.
    /// </summary>
    public static readonly TimeSpan SpeakerTime = TimeSpan.FromSeconds(10);

    public CollectiveException(string message, Exception? innerException = null, int? speaker = null)
        : base(message, innerException!) => Speaker = speaker;

    /// <summary>World rank that tells the message for all that see it; null where this rank alone does.</summary>
    public int? Speaker { get; }
}
