using LongNet.Distributed.Diagnostics;

namespace LongNet.Distributed.Collectives;

/// <summary>What a <see cref="ProcessGroup"/> knows of a collective before it starts.</summary>
/// <param name="Kind">Which collective it is.</param>
/// <param name="Signature">Makes the text of what all ranks must agree about.</param>
/// <param name="Bytes">Payload of this rank.</param>
/// <param name="Lifetime">Who keeps the tensors alive until it is completed.</param>
/// <param name="Caller">Where the program called it.</param>
/// <param name="Peer">The other rank of a message; null for a collective of all ranks.</param>
internal readonly record struct CollectiveLaunch(
    CollectiveKind Kind,
    Func<string> Signature,
    long Bytes,
    TensorLifetime Lifetime,
    CallerLocation Caller,
    int? Peer = null
);
