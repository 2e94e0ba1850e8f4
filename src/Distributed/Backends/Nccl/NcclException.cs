using LongNet.Core;

namespace LongNet.Distributed.Backends.Nccl;

/// <summary>
/// A collective of CUDA tensors failed. Its communicator cannot be used again, and ranks that wait in it cannot
/// continue.
/// </summary>
public sealed class NcclException(string message) : UserException(message);
