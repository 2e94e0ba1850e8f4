using System.Diagnostics;
using System.Runtime.InteropServices;
using LongNet.Core.Cuda;
using LongNet.Core.Native;
using LongNet.TestKit;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Cuda;

/// <summary>
/// The CUDA kernels, compiled as C++ and run thread by thread on the CPU: their arithmetic, their parameters' layout
/// and all of the C# around them, without a GPU.
/// </summary>
internal sealed unsafe class EmulatedKernels : KernelModule
{
    private const string Prelude = """
        #include <math.h>
        #include <cstring>
        #define __device__
        #define __global__
        #define __forceinline__ inline
        #define __align__(bytes) alignas(bytes)
        static thread_local struct { unsigned x; } threadIdx, blockIdx, blockDim;
        static inline float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
        static inline float __int_as_float(int bits) { float x; std::memcpy(&x, &bits, 4); return x; }
        static inline unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
        static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
        #define KERNEL(name, Parameters) \
            static void run_##name(const Parameters& p); \
            extern "C" void name(const void* parameters, unsigned blocks) \
            { \
                blockDim.x = 256; \
                for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) \
                    for (threadIdx.x = 0; threadIdx.x < 256; threadIdx.x++) \
                        run_##name(*static_cast<const Parameters*>(parameters)); \
            } \
            static void run_##name(const Parameters& p)

        """;

    // PTX instructions and what computes the same on the CPU.
    private static readonly (string Ptx, string Cpp)[] Instructions =
    [
        (
            """asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));""",
            "_Float16 half; std::memcpy(&half, &x.bits, 2); result = half;"
        ),
        (
            """asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));""",
            "_Float16 half = x; std::memcpy(&result.bits, &half, 2);"
        ),
    ];

    private static readonly Lazy<(EmulatedKernels? Kernels, string? Problem)> Compiled = new(Compile);

    private readonly nint handle;

    private EmulatedKernels(nint handle) => this.handle = handle;

    /// <summary>The kernels; skips the test where there is no compiler.</summary>
    public static EmulatedKernels Get()
    {
        Assert.SkipWhen(Compiled.Value.Kernels is null, Compiled.Value.Problem ?? "");
        return Compiled.Value.Kernels!;
    }

    public override nint AddressOf(Tensor tensor) =>
        // An axis of one element, so that the last one is dense.
        TensorMemory.StridedAddress(tensor.unsqueeze(-1));

    protected override void Launch(string kernel, uint blocks, void* parameters)
    {
        var run = (delegate* unmanaged<void*, uint, void>)NativeLibrary.GetExport(handle, kernel);
        run(parameters, blocks);
    }

    private static (EmulatedKernels?, string?) Compile()
    {
        string source = KernelSource.Read();
        foreach (var (ptx, cpp) in Instructions)
        {
            Assert.Contains(ptx, source, StringComparison.Ordinal);
            source = source.Replace(ptx, cpp, StringComparison.Ordinal);
        }

        using var folder = new TemporaryFolder();
        folder.Write("kernels.cpp", Prelude + source);
        string library = folder["libkernels.so"];
        var start = new ProcessStartInfo(
            "g++",
            ["-O2", "-w", "-std=c++17", "-shared", "-fPIC", "-o", library, folder["kernels.cpp"]]
        )
        {
            RedirectStandardError = true,
        };
        try
        {
            using Process compiler = Process.Start(start)!;
            string errors = compiler.StandardError.ReadToEnd();
            compiler.WaitForExit();
            Assert.True(compiler.ExitCode == 0, $"g++ does not compile the kernels: {errors}");
        }
        catch (System.ComponentModel.Win32Exception)
        {
            return (null, "there is no g++, which compiles the kernels for the CPU");
        }

        // The file may be removed once it is loaded.
        return (new EmulatedKernels(NativeLibrary.Load(library)), null);
    }
}
