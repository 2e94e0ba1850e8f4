using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives.Transport;

/// <summary>The ranks of a group, and what transfers the tensors of its collectives.</summary>
internal interface ICommunicator : ITensorTransport, IDisposable
{
    int Rank { get; }

    int Size { get; }

    /// <summary>World ranks of the group, in group order.</summary>
    IReadOnlyList<int> Members { get; }

    /// <summary>Whether it transfers tensors on this one's device.</summary>
    bool Supports(Tensor tensor);

    /// <summary>The devices whose tensors it transfers, for messages: "CPU" or "CPU or CUDA".</summary>
    string SupportedDevices { get; }

    ITransfer Barrier(CollectiveCall call);

    /// <summary>Blocking, as communicators are made rarely. Collective.</summary>
    ICommunicator Split(CollectiveCall call, int color, int key, string name);
}
