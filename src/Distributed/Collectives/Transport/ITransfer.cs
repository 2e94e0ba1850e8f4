namespace LongNet.Distributed.Collectives.Transport;

/// <summary>A collective under way in a backend.</summary>
internal interface ITransfer
{
    /// <summary>Whether its result may be read on this rank.</summary>
    bool IsCompleted { get; }

    /// <summary>Returns once <see cref="IsCompleted"/>; on a GPU, once its stream will wait for it.</summary>
    void Wait();
}

/// <summary>One that was done at once.</summary>
internal sealed class CompletedTransfer : ITransfer
{
    public static CompletedTransfer Instance { get; } = new();

    public bool IsCompleted => true;

    public void Wait() { }
}
