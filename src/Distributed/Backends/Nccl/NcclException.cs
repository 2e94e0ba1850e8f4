using LongNet.Core;

namespace LongNet.Distributed.Backends.Nccl;

/// <summary>
/// A collective of CUDA tensors failed. The communicator is of no use any more, and neither are the ranks that wait in
/// it.
/// </summary>
public sealed class NcclException(string message) : UserException(message);
