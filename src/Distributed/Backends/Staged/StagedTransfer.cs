using LongNet.Distributed.Collectives.Transport;

namespace LongNet.Distributed.Backends.Staged;

/// <summary>
/// A collective of copies in host memory. The results are copied to the device by the thread that waits.
/// </summary>
/// <param name="host">The collective of the copies.</param>
/// <param name="copyBack">Copies the results to the device; null where there are none.</param>
/// <param name="staged">The copies, which are released at the end.</param>
internal sealed class StagedTransfer(ITransfer host, Action? copyBack, params StagedTensor[] staged) : ITransfer
{
    private readonly Lock gate = new();
    private bool finished;

    public bool IsCompleted => host.IsCompleted;

    /// <inheritdoc/>
    /// <remarks>Where the collective fails, its buffers are left to the garbage collector: messages may still write
    /// into them.</remarks>
    public void Wait()
    {
        host.Wait();
        lock (gate)
        {
            if (finished)
                return;
            finished = true;
            copyBack?.Invoke();
            foreach (StagedTensor each in staged)
                each.Release();
        }
    }
}
