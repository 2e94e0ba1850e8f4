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

    [LibraryImport(Driver, EntryPoint = "cuDeviceGetAttribute")]
    private static partial int DeviceGetAttribute(int* value, int attribute, int device);
}
