using System.Runtime.InteropServices;

namespace LongNet.Core.Cuda;

/// <summary>Modules and launches of the NVIDIA driver, in the context in which libtorch computes.</summary>
internal static unsafe partial class KernelDriver
{
    // CUDA_SUCCESS and the attributes of cuda.h.
    private const int Success = 0,
        ComputeCapabilityMajor = 75,
        ComputeCapabilityMinor = 76;

    // The legacy default stream, on which TorchSharp computes, in autograd's threads too.
    private const nint DefaultStream = 0;
    private const string Driver = "libcuda.so.1";

    /// <summary>A GPU's compute capability, 90 for 9.0, and the context in which libtorch computes on it. The context
    /// is kept until the process ends, as libtorch keeps it.</summary>
    /// <param name="index">As in <c>cuda:index</c>.</param>
    /// <exception cref="InvalidOperationException">The driver refuses.</exception>
    /// <exception cref="DllNotFoundException">There is no driver.</exception>
    public static (int Capability, nint Context) Open(int index)
    {
        int device,
            major,
            minor;
        nint context;
        Check(Initialise(0), "cuInit");
        Check(DeviceGet(&device, index), "cuDeviceGet");
        Check(DeviceGetAttribute(&major, ComputeCapabilityMajor, device), "cuDeviceGetAttribute");
        Check(DeviceGetAttribute(&minor, ComputeCapabilityMinor, device), "cuDeviceGetAttribute");
        Check(PrimaryContextRetain(&context, device), "cuDevicePrimaryCtxRetain");
        return (major * 10 + minor, context);
    }

    /// <summary>Loads compiled kernels; they stay until the process ends.</summary>
    /// <param name="context">Of the GPU.</param>
    /// <param name="image">A CUBIN, or PTX that ends with a zero.</param>
    public static nint LoadModule(nint context, byte[] image)
    {
        using ContextScope scope = Enter(context);
        nint module;
        fixed (byte* bytes = image)
            Check(ModuleLoadData(&module, bytes), "cuModuleLoadData");
        return module;
    }

    /// <summary>A kernel of a module.</summary>
    public static nint Function(nint context, nint module, string name)
    {
        using ContextScope scope = Enter(context);
        nint function;
        Check(ModuleGetFunction(&function, module, name), $"cuModuleGetFunction for {name}");
        return function;
    }

    /// <summary>Starts a kernel of one parameter on the default stream. Returns at once.</summary>
    /// <param name="context">Of the GPU.</param>
    /// <param name="function">The kernel.</param>
    /// <param name="blocks">Thread blocks.</param>
    /// <param name="threadsPerBlock">Threads of each.</param>
    /// <param name="parameter">Address of the parameter, which is copied.</param>
    public static void Launch(nint context, nint function, uint blocks, uint threadsPerBlock, void* parameter)
    {
        using ContextScope scope = Enter(context);
        Check(
            LaunchKernel(function, blocks, 1, 1, threadsPerBlock, 1, 1, 0, DefaultStream, &parameter, null),
            "cuLaunchKernel"
        );
    }

    // A thread that has computed with libtorch on this GPU has the context already.
    private static ContextScope Enter(nint context)
    {
        nint current;
        Check(ContextGetCurrent(&current), "cuCtxGetCurrent");
        if (current == context)
            return default;
        Check(ContextPushCurrent(context), "cuCtxPushCurrent");
        return new ContextScope(pushed: true);
    }

    private static void Check(int code, string function)
    {
        if (code == Success)
            return;
        byte* text;
        string reason =
            GetErrorString(code, &text) == Success ? Marshal.PtrToStringUTF8((nint)text)! : "an unknown error";
        throw new InvalidOperationException($"{function} of the NVIDIA driver failed with code {code}: {reason}.");
    }

    /// <summary>Restores the thread's former context.</summary>
    private readonly ref struct ContextScope(bool pushed)
    {
        public void Dispose()
        {
            nint context;
            if (pushed)
                _ = ContextPopCurrent(&context);
        }
    }

    [LibraryImport(Driver, EntryPoint = "cuInit")]
    private static partial int Initialise(uint flags);

    [LibraryImport(Driver, EntryPoint = "cuGetErrorString")]
    private static partial int GetErrorString(int code, byte** text);

    [LibraryImport(Driver, EntryPoint = "cuDeviceGet")]
    private static partial int DeviceGet(int* device, int index);

    [LibraryImport(Driver, EntryPoint = "cuDeviceGetAttribute")]
    private static partial int DeviceGetAttribute(int* value, int attribute, int device);

    [LibraryImport(Driver, EntryPoint = "cuDevicePrimaryCtxRetain")]
    private static partial int PrimaryContextRetain(nint* context, int device);

    [LibraryImport(Driver, EntryPoint = "cuCtxGetCurrent")]
    private static partial int ContextGetCurrent(nint* context);

    [LibraryImport(Driver, EntryPoint = "cuCtxPushCurrent_v2")]
    private static partial int ContextPushCurrent(nint context);

    [LibraryImport(Driver, EntryPoint = "cuCtxPopCurrent_v2")]
    private static partial int ContextPopCurrent(nint* context);

    [LibraryImport(Driver, EntryPoint = "cuModuleLoadData")]
    private static partial int ModuleLoadData(nint* module, byte* image);

    [LibraryImport(Driver, EntryPoint = "cuModuleGetFunction", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int ModuleGetFunction(nint* function, nint module, string name);

    [LibraryImport(Driver, EntryPoint = "cuLaunchKernel")]
    private static partial int LaunchKernel(
        nint function,
        uint gridX,
        uint gridY,
        uint gridZ,
        uint blockX,
        uint blockY,
        uint blockZ,
        uint sharedBytes,
        nint stream,
        void** parameters,
        void** extra
    );
}
