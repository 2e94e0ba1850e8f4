using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Cuda;

/// <summary>The kernels of the folder Kernels, compiled. Tests compile them for the CPU.</summary>
internal abstract unsafe class KernelModule
{
    /// <summary>Channels per thread.</summary>
    public const int GroupSize = 8;

    /// <summary>Most threads of one launch: indices are counted in 31 bits.</summary>
    public const long LargestLaunch = int.MaxValue - ThreadsPerBlock;

    /// <summary>Threads of a block; the kernels are compiled for no more.</summary>
    protected const int ThreadsPerBlock = 256;

    private const long Boundary = 16;

    /// <summary>Whether the kernels compute with a type.</summary>
    public static bool Supports(ScalarType type) =>
        type is ScalarType.Float32 or ScalarType.BFloat16 or ScalarType.Float16;

    /// <summary>What the kernels call a type.</summary>
    public static string NameOf(ScalarType type) =>
        type switch
        {
            ScalarType.Float32 => "float",
            ScalarType.BFloat16 => "bfloat16",
            ScalarType.Float16 => "float16",
            _ => throw new ArgumentException($"The CUDA kernels do not compute in {type}.", nameof(type)),
        };

    /// <summary>Groups of eight channels.</summary>
    public static long GroupsOf(long channels) => (channels + GroupSize - 1) / GroupSize;

    /// <summary>
    /// The kernels for a tensor; null where it is not on a GPU, its type is another, it has no elements or too many for
    /// one launch, or there are no kernels.
    /// </summary>
    /// <param name="tensor">The last axis are channels.</param>
    public static KernelModule? For(Tensor tensor)
    {
        if (tensor.device_type != DeviceType.CUDA || !Supports(tensor.dtype))
            return null;
        long elements = tensor.NumberOfElements,
            channels = tensor.size(-1);
        if (elements == 0 || elements / channels * GroupsOf(channels) > LargestLaunch)
            return null;
        return CudaKernels.Of(tensor.device_index);
    }

    /// <summary>Whether eight channels are 16-byte words at each address and with each stride.</summary>
    public static bool IsAligned(nint address, params ReadOnlySpan<long> strides)
    {
        bool aligned = address % Boundary == 0;
        foreach (long stride in strides)
            aligned &= stride % GroupSize == 0;
        return aligned;
    }

    /// <summary>Starts a kernel. Returns at once.</summary>
    /// <param name="kernel">Its name.</param>
    /// <param name="threads">1 … <see cref="LargestLaunch"/>.</param>
    /// <param name="parameters">What the kernel takes, laid out as in its source.</param>
    public void Launch<T>(string kernel, long threads, ref T parameters)
        where T : unmanaged
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(threads);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(threads, LargestLaunch);
        fixed (T* address = &parameters)
            Launch(kernel, (uint)((threads + ThreadsPerBlock - 1) / ThreadsPerBlock), address);
    }

    /// <summary>Address of a tensor's first element. Valid while the caller keeps the tensor alive.</summary>
    /// <param name="tensor">With any strides.</param>
    public abstract nint AddressOf(Tensor tensor);

    /// <summary>Starts a kernel of complete thread blocks.</summary>
    protected abstract void Launch(string kernel, uint blocks, void* parameters);
}
