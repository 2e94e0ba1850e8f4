using LongNet.Core;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// An error of the user that every rank of the job throws at the same place, so that all ranks can leave in order and
/// one of them reports it. Any other exception means that only this rank failed and must end the job.
/// </summary>
public sealed class AgreedUserException(string message, Exception? innerException = null)
    : UserException(message, innerException!);
