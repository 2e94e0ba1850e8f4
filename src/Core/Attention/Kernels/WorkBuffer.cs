using System.Collections.Concurrent;
using System.Runtime.InteropServices;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// Memory that a worker of <see cref="Avx512FlashKernel"/> has to itself while it works; then the next worker uses it.
/// At most as many buffers are kept as the machine has processors; a buffer returned beyond that is freed.
/// </summary>
internal sealed unsafe class WorkBuffer : SafeHandle
{
    private const int Alignment = 64; // A cache line, and a vector register.

    private static readonly int MostKept = Environment.ProcessorCount;
    private static readonly ConcurrentBag<WorkBuffer> Free = [];
    private static int kept;

    private long capacity; // floats
    private long used;

    public WorkBuffer()
        : base(0, ownsHandle: true) { }

    public override bool IsInvalid => handle == 0;

    /// <summary>A buffer that nobody else has.</summary>
    /// <param name="floats">Its size, with room for what <see cref="Take"/> rounds up.</param>
    public static WorkBuffer Rent(long floats)
    {
        if (Free.TryTake(out WorkBuffer? buffer))
            Interlocked.Decrement(ref kept);
        else
            buffer = new WorkBuffer();
        buffer.used = 0;
        if (buffer.capacity < floats)
        {
            if (!buffer.IsInvalid)
                NativeMemory.AlignedFree((void*)buffer.handle);
            (buffer.handle, buffer.capacity) = (0, 0);
            buffer.SetHandle((nint)NativeMemory.AlignedAlloc((nuint)(floats * sizeof(float)), Alignment));
            buffer.capacity = floats;
        }

        return buffer;
    }

    /// <summary>Size of a part as <see cref="Take"/> counts it.</summary>
    public static long Rounded(long floats) =>
        (floats + Alignment / sizeof(float) - 1) / (Alignment / sizeof(float)) * (Alignment / sizeof(float));

    /// <summary>The next part, of undefined content.</summary>
    public float* Take(long floats)
    {
        long start = used;
        used += Rounded(floats);
        if (used > capacity)
            throw new InvalidOperationException($"A work buffer of {capacity} floats was asked for {used}.");
        return (float*)handle + start;
    }

    /// <summary>The next part, filled with zeros.</summary>
    public float* TakeZeros(long floats)
    {
        float* part = Take(floats);
        NativeMemory.Clear(part, (nuint)(floats * sizeof(float)));
        return part;
    }

    /// <summary>Keeps the buffer for the next worker, or frees it where enough are kept.</summary>
    public void Return()
    {
        if (Interlocked.Increment(ref kept) <= MostKept)
        {
            Free.Add(this);
            return;
        }

        Interlocked.Decrement(ref kept);
        Dispose();
    }

    protected override bool ReleaseHandle()
    {
        NativeMemory.AlignedFree((void*)handle);
        return true;
    }
}
