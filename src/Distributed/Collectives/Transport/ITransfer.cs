namespace LongNet.Distributed.Collectives.Transport;

/// <summary>The state of one collective in a backend, from its start to its completion on this rank.</summary>
internal interface ITransfer
{
    /// <summary>Whether <see cref="Wait"/> has no other rank to wait for.</summary>
    bool IsCompleted { get; }

    /// <summary>
    /// Returns once the result may be read on this rank; with NCCL, once the default stream will wait for it.
    /// </summary>
    void Wait();
}

/// <summary>A transfer that was completed before the start returned.</summary>
internal sealed class CompletedTransfer : ITransfer
{
    public static CompletedTransfer Instance { get; } = new();

    public bool IsCompleted => true;

    public void Wait() { }
}
