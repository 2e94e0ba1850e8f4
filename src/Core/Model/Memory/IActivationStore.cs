using static TorchSharp.torch;

namespace LongNet.Core.Model.Memory;

/// <summary>Where what forward leaves for backward waits. The last stored is taken first.</summary>
internal interface IActivationStore : IDisposable
{
    /// <summary>
    /// Takes the space of all that will wait at once, so that it is known at the start whether there is enough.
    /// </summary>
    /// <exception cref="UserException">There is not; says how much is missing where.</exception>
    void Reserve(long bytes);

    /// <summary>Keeps a tensor's values.</summary>
    /// <param name="tensor">Unchanged from now on; the caller may dispose it.</param>
    IStoredActivation Store(Tensor tensor);
}

/// <summary>A tensor that waits.</summary>
internal interface IStoredActivation : IDisposable
{
    /// <summary>The values. Once.</summary>
    /// <returns>Owned by the caller.</returns>
    Tensor Take();
}

/// <summary>In memory, where they are.</summary>
internal sealed class MemoryActivationStore : IActivationStore
{
    public void Reserve(long bytes) { }

    public IStoredActivation Store(Tensor tensor) => new Stored(tensor.detach().DetachFromDisposeScope());

    public void Dispose() { }

    private sealed class Stored(Tensor tensor) : IStoredActivation
    {
        // In the caller's scope, if there is one.
        public Tensor Take()
        {
            Tensor taken = tensor.alias();
            tensor.Dispose();
            return taken;
        }

        public void Dispose() => tensor.Dispose();
    }
}
