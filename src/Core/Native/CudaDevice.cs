using System.Collections.Concurrent;
using System.Runtime.InteropServices;

namespace LongNet.Core.Native;

/// <summary>Facts about a GPU that the NVIDIA driver reports and TorchSharp does not.</summary>
internal static unsafe partial class CudaDevice
{
    // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and CUDA_SUCCESS of cuda.h.
    private const int ComputeCapabilityMajor = 75,
        Success = 0;
    private const string Driver = "libcuda.so.1";

    private static readonly ConcurrentDictionary<int, int?> Capabilities = new();

    /// <summary>The GPU's name.</summary>
    /// <param name="index">As in <c>cuda:index</c>; counts those that CUDA_VISIBLE_DEVICES shows.</param>
    /// <returns>Such as "NVIDIA H100 80GB HBM3"; null where there is no driver or no such GPU.</returns>
    public static string? Name(int index)
    {
        byte* text = stackalloc byte[256];
        return Ask(index, device =>
            DeviceGetName(text, 255, device) == Success ? Marshal.PtrToStringUTF8((nint)text) : null
        );
    }

    /// <summary>
    /// Whether the GPU has compute capability 8.0 or more. Where the driver does not say, it counts as one that has.
    /// </summary>
    /// <param name="index">As in <see cref="Name"/>.</param>
    internal static bool IsAmpereOrNewer(int index) => (Capabilities.GetOrAdd(index, Major) ?? int.MaxValue) >= 8;

    /// <summary>
    /// Whether the GPU has compute capability 9.0 (Hopper). Where the driver does not say, it counts as one that has
    /// not.
    /// </summary>
    /// <param name="index">As in <see cref="Name"/>.</param>
    internal static bool IsHopper(int index) => Capabilities.GetOrAdd(index, Major) == 9;

    /// <summary>Memory of the GPU that is in use, by all processes. Its context must exist in this one.</summary>
    /// <param name="index">As in <see cref="Name"/>.</param>
    /// <returns>Bytes; null where the driver does not say.</returns>
    internal static long? UsedBytes(int index) => Memory(index) is var (free, total) ? total - free : null;

    /// <summary>Free and total memory of the GPU. Its context must exist in this process.</summary>
    /// <param name="index">As in <see cref="Name"/>.</param>
    /// <returns>Bytes; null where the driver does not say.</returns>
    internal static (long Free, long Total)? Memory(int index) => Ask<(long, long)?>(index, device =>
        {
            nint context;
            if (RetainPrimaryContext(&context, device) != Success)
                return null;
            try
            {
                nuint free,
                    total;
                nint popped;
                if (PushContext(context) != Success)
                    return null;
                bool known = MemoryInfo(&free, &total) == Success;
                _ = PopContext(&popped);
                return known ? ((long)free, (long)total) : null;
            }
            finally
            {
                _ = ReleasePrimaryContext(device);
            }
        });

    private static int? Major(int index) => Ask<int?>(index, device =>
        {
            int value;
            return DeviceGetAttribute(&value, ComputeCapabilityMajor, device) == Success ? value : null;
        });

    private static T? Ask<T>(int index, Func<int, T?> question)
    {
        try
        {
            int device;
            return Initialise(0) == Success && DeviceGet(&device, Math.Max(index, 0)) == Success
                ? question(device)
                : default;
        }
        catch (Exception error) when (error is DllNotFoundException or EntryPointNotFoundException)
        {
            return default;
        }
    }

    [LibraryImport(Driver, EntryPoint = "cuInit")]
    private static partial int Initialise(uint flags);

    [LibraryImport(Driver, EntryPoint = "cuDeviceGet")]
    private static partial int DeviceGet(int* device, int index);

    [LibraryImport(Driver, EntryPoint = "cuDeviceGetName")]
    private static partial int DeviceGetName(byte* name, int length, int device);

    [LibraryImport(Driver, EntryPoint = "cuDevicePrimaryCtxRetain")]
    private static partial int RetainPrimaryContext(nint* context, int device);

    [LibraryImport(Driver, EntryPoint = "cuDevicePrimaryCtxRelease_v2")]
    private static partial int ReleasePrimaryContext(int device);

    [LibraryImport(Driver, EntryPoint = "cuCtxPushCurrent_v2")]
    private static partial int PushContext(nint context);

    [LibraryImport(Driver, EntryPoint = "cuCtxPopCurrent_v2")]
    private static partial int PopContext(nint* context);

    [LibraryImport(Driver, EntryPoint = "cuMemGetInfo_v2")]
    private static partial int MemoryInfo(nuint* free, nuint* total);

    [LibraryImport(Driver, EntryPoint = "cuDeviceGetAttribute")]
    private static partial int DeviceGetAttribute(int* value, int attribute, int device);
}
