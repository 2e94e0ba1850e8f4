using System.Buffers;
using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Native;

/// <summary>
/// The bytes of contiguous CPU tensors, in row-major element order, without a copy and without the 2 GiB limit of
/// <c>Tensor.bytes</c>. The one place that turns a tensor into an address.
/// </summary>
/// <remarks>
/// Chunks are lent to a callback instead of returned: the tensor is kept alive until the callback is done, so that no
/// span outlives its memory.
/// </remarks>
internal static unsafe partial class TensorMemory
{
    /// <summary>Bytes per chunk where the caller does not choose: 64 MiB.</summary>
    public const int DefaultChunkBytes = 64 << 20;

    /// <summary>Whether the tensor's elements lie in CPU memory in row-major order without gaps.</summary>
    public static bool IsDirect(Tensor tensor) => tensor.device_type == DeviceType.CPU && tensor.is_contiguous();

    /// <summary>Size of all elements in bytes.</summary>
    public static long ByteLength(Tensor tensor) => checked(tensor.NumberOfElements * tensor.ElementSize);

    /// <summary>
    /// Address of the first element, the storage offset included; zero for a tensor without elements. Valid only while
    /// the caller keeps the tensor alive (<see cref="GC.KeepAlive"/> after the last use).
    /// </summary>
    /// <param name="tensor">Any shape and dtype; contiguous, on the CPU.</param>
    /// <exception cref="ArgumentException">The tensor is strided or on another device.</exception>
    public static nint Address(Tensor tensor)
    {
        if (!IsDirect(tensor))
        {
            throw new ArgumentException(
                $"A contiguous CPU tensor is needed, not one on {tensor.device} with strides "
                    + $"[{string.Join(", ", tensor.stride())}]; pass tensor.cpu().contiguous().",
                nameof(tensor)
            );
        }

        var address = THSTensor_data(tensor.Handle);
        GC.KeepAlive(tensor);
        return address;
    }

    /// <summary>
    /// Address of the first element in the GPU's memory, the storage offset included; zero for a tensor without
    /// elements. Of use to the driver and its libraries only. Valid only while the caller keeps the tensor alive, and
    /// libtorch's streams do not see that use.
    /// </summary>
    /// <param name="tensor">Any shape and dtype; contiguous, on a CUDA device.</param>
    /// <exception cref="ArgumentException">The tensor is strided or on another device.</exception>
    public static nint DeviceAddress(Tensor tensor)
    {
        if (tensor.device_type != DeviceType.CUDA || !tensor.is_contiguous())
        {
            throw new ArgumentException(
                $"A contiguous CUDA tensor is needed, not one on {tensor.device} with strides "
                    + $"[{string.Join(", ", tensor.stride())}].",
                nameof(tensor)
            );
        }

        nint address = THSTensor_data(tensor.Handle);
        GC.KeepAlive(tensor);
        return address;
    }

    /// <summary>Like <see cref="DeviceAddress"/>, of a tensor with any strides.</summary>
    /// <param name="tensor">On a CUDA device.</param>
    /// <exception cref="ArgumentException">It is on another device.</exception>
    internal static nint StridedDeviceAddress(Tensor tensor)
    {
        if (tensor.device_type != DeviceType.CUDA)
            throw new ArgumentException($"A CUDA tensor is needed, not one on {tensor.device}.", nameof(tensor));
        nint address = THSTensor_data(tensor.Handle);
        GC.KeepAlive(tensor);
        return address;
    }

    /// <summary>
    /// Address of the first element of a strided tensor, the storage offset included. Valid only while the caller keeps
    /// the tensor alive.
    /// </summary>
    /// <param name="tensor">On the CPU, dense along its last axis.</param>
    /// <exception cref="ArgumentException">It is on another device, or not dense along its last axis.</exception>
    internal static nint StridedAddress(Tensor tensor)
    {
        if (tensor.device_type != DeviceType.CPU || (tensor.shape[^1] > 1 && tensor.stride(-1) != 1))
        {
            throw new ArgumentException(
                $"A CPU tensor that is dense along its last axis is needed, not one on {tensor.device} with "
                    + $"strides [{string.Join(", ", tensor.stride())}].",
                nameof(tensor)
            );
        }

        nint address = THSTensor_data(tensor.Handle);
        GC.KeepAlive(tensor);
        return address;
    }

    /// <summary>Lends the tensor's bytes in order, chunk by chunk, to be read.</summary>
    /// <param name="tensor">Contiguous, on the CPU.</param>
    /// <param name="action">Takes each chunk and its offset in bytes from the first element.</param>
    /// <param name="chunkBytes">Size of every chunk but the last.</param>
    public static void Read(Tensor tensor, ReadOnlySpanAction<byte, long> action, int chunkBytes = DefaultChunkBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(chunkBytes);
        var address = (byte*)Address(tensor);
        var length = ByteLength(tensor);
        for (long offset = 0; offset < length; offset += chunkBytes)
        {
            action(new ReadOnlySpan<byte>(address + offset, (int)Math.Min(chunkBytes, length - offset)), offset);
        }

        GC.KeepAlive(tensor);
    }

    /// <summary>
    /// Lends the tensor's bytes in order, chunk by chunk, to be overwritten. Autograd does not see the change.
    /// </summary>
    /// <param name="tensor">Contiguous, on the CPU.</param>
    /// <param name="action">Fills each chunk; is given its offset in bytes from the first element.</param>
    /// <param name="chunkBytes">Size of every chunk but the last.</param>
    public static void Write(Tensor tensor, SpanAction<byte, long> action, int chunkBytes = DefaultChunkBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(chunkBytes);
        var address = (byte*)Address(tensor);
        var length = ByteLength(tensor);
        for (long offset = 0; offset < length; offset += chunkBytes)
        {
            action(new Span<byte>(address + offset, (int)Math.Min(chunkBytes, length - offset)), offset);
        }

        GC.KeepAlive(tensor);
    }

    /// <summary>
    /// Copies a tensor's bytes over another's, by the calling thread only. Autograd does not see the change.
    /// </summary>
    /// <param name="source">Contiguous, on the CPU.</param>
    /// <param name="destination">Likewise, of as many bytes.</param>
    public static void Copy(Tensor source, Tensor destination)
    {
        var length = ByteLength(source);
        if (length != ByteLength(destination))
        {
            throw new ArgumentException(
                $"{length} bytes cannot be copied over {ByteLength(destination)}.",
                nameof(destination)
            );
        }

        Buffer.MemoryCopy((void*)Address(source), (void*)Address(destination), length, length);
        GC.KeepAlive(source);
        GC.KeepAlive(destination);
    }

    /// <summary>
    /// Whether two tensors have the same bytes; not whether their numbers are equal, as 0 and −0 are.
    /// </summary>
    /// <param name="first">Contiguous, on the CPU.</param>
    /// <param name="second">Likewise.</param>
    public static bool SameBytes(Tensor first, Tensor second)
    {
        var length = ByteLength(first);
        var same = length == ByteLength(second);
        for (long offset = 0; same && offset < length; offset += DefaultChunkBytes)
        {
            var count = (int)Math.Min(DefaultChunkBytes, length - offset);
            same = new ReadOnlySpan<byte>((byte*)Address(first) + offset, count).SequenceEqual(
                new ReadOnlySpan<byte>((byte*)Address(second) + offset, count)
            );
        }

        GC.KeepAlive(first);
        GC.KeepAlive(second);
        return same;
    }

    [LibraryImport("LibTorchSharp")]
    private static partial nint THSTensor_data(nint tensor);
}
