using LongNet.Core;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// A user's mistake that every rank of the job throws at the same place, so that all can leave in order and one can
/// speak for them. Any other exception means that this rank alone must end the job.
/// </summary>
public sealed class AgreedUserException(string message, Exception? innerException = null)
    : UserException(message, innerException!);
