using System.Collections.Concurrent;
using LongNet.Core.Native;
using static TorchSharp.torch;

namespace LongNet.Core.Cuda;

/// <summary>
/// Our own kernels on one GPU, compiled for it once per process, at first use. Where that fails, it is not tried again,
/// and plain tensor operations compute the same.
/// </summary>
internal sealed unsafe class CudaKernels : KernelModule
{
    /// <summary>Environment variable that turns the kernels off, by the value <c>off</c>.</summary>
    public const string Variable = "LONGNET_CUDA_KERNELS";

    // What every GPU since then compiles from PTX, where NVRTC is older than the GPU.
    private const string OldestArchitecture = "compute_75";

    private static readonly ConcurrentDictionary<int, Lazy<(CudaKernels? Kernels, string? Problem)>> Devices = new();

    private readonly nint context,
        module;
    private readonly ConcurrentDictionary<string, nint> functions = new(StringComparer.Ordinal);

    private CudaKernels(nint context, nint module)
    {
        this.context = context;
        this.module = module;
    }

    /// <summary>The kernels of a GPU; null where they cannot be used.</summary>
    /// <param name="device">As in <c>cuda:index</c>.</param>
    public static CudaKernels? Of(int device) => Load(device).Kernels;

    /// <summary>Whether a GPU has the kernels. The first question compiles them, which takes some seconds.</summary>
    /// <param name="device">As in <c>cuda:index</c>.</param>
    public static bool IsAvailable(int device) => Load(device).Kernels is not null;

    /// <summary>Why a GPU does not have the kernels, in one sentence; null where it has.</summary>
    /// <param name="device">As in <c>cuda:index</c>.</param>
    public static string? Problem(int device) => Load(device).Problem;

    public override nint AddressOf(Tensor tensor) => TensorMemory.StridedDeviceAddress(tensor);

    protected override void Launch(string kernel, uint blocks, void* parameters) =>
        KernelDriver.Launch(context, FunctionOf(kernel), blocks, ThreadsPerBlock, parameters);

    private nint FunctionOf(string kernel)
    {
        if (!functions.TryGetValue(kernel, out nint function))
            functions[kernel] = function = KernelDriver.Function(context, module, kernel);
        return function;
    }

    private static (CudaKernels? Kernels, string? Problem) Load(int device) =>
        Devices
            .GetOrAdd(Math.Max(device, 0), static index => new Lazy<(CudaKernels?, string?)>(() => Compile(index)))
            .Value;

    private static (CudaKernels?, string?) Compile(int device)
    {
        if (Environment.GetEnvironmentVariable(Variable) == "off")
            return (null, $"{Variable} is off.");
        try
        {
            var (capability, context) = KernelDriver.Open(device);
            string source = KernelSource.Read();
            nint module;
            try
            {
                module = KernelDriver.LoadModule(context, Nvrtc.Compile(source, $"sm_{capability}"));
            }
            catch (InvalidOperationException) when (Nvrtc.IsPresent)
            {
                module = KernelDriver.LoadModule(context, Nvrtc.Compile(source, OldestArchitecture));
            }

            return (new CudaKernels(context, module), null);
        }
        catch (Exception error)
            when (error is InvalidOperationException or DllNotFoundException or EntryPointNotFoundException)
        {
            return (null, $"The CUDA kernels cannot be used: {error.Message.Split('\n')[0]}");
        }
    }
}
