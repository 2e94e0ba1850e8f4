using LongNet.Core;

namespace LongNet.Distributed.Diagnostics;

/// <summary>Ranks of a group were about to run different collectives. Thrown alike on all ranks of the group, before any data moved.</summary>
public sealed class CollectiveMismatchException(string message) : UserException(message);
