using static TorchSharp.torch;

namespace LongNet.Distributed.Backends.Staged;

/// <summary>Host memory for elements of one type.</summary>
internal sealed class StagingBuffer : IDisposable
{
    private readonly Tensor memory;
    private readonly bool pinned;

    private StagingBuffer(Tensor memory, bool pinned) => (this.memory, this.pinned) = (memory, pinned);

    public long Elements => memory.NumberOfElements;

    /// <param name="pinned">Whether the GPU can copy from and to it without the processor.</param>
    public static StagingBuffer Create(ScalarType dtype, bool pinned, long elements)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        Tensor memory = empty([elements], dtype: dtype, device: CPU);
        return new StagingBuffer((pinned ? memory.pin_memory() : memory).DetachFromDisposeScope(), pinned);
    }

    public bool Fits(ScalarType dtype, bool pinned, long elements) =>
        memory.dtype == dtype && this.pinned == pinned && Elements >= elements;

    /// <summary>Its first elements, in no dispose scope. Owned by the caller.</summary>
    public Tensor First(long elements)
    {
        using var noGradient = no_grad();
        return memory.narrow(0, 0, elements).DetachFromDisposeScope();
    }

    public void Dispose() => memory.Dispose();
}
