using System.Runtime.InteropServices;
using System.Text;
using LongNet.Core.Native;

namespace LongNet.Core.Cuda;

/// <summary>NVRTC, NVIDIA's compiler for CUDA C at run time. It needs no GPU and no driver.</summary>
internal static unsafe class Nvrtc
{
    /// <summary>Environment variable that names the library, by path.</summary>
    public const string LibraryVariable = "LONGNET_NVRTC_LIBRARY";

    // NVRTC_SUCCESS of nvrtc.h.
    private const int Success = 0;

    // 11.2 is the name of all versions 11.2 to 11.8.
    private static readonly string[] Names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"];

    // Folders of PyTorch's wheels beside torch/lib, which LONGNET_LIBTORCH names, and of NVIDIA's packages.
    private static readonly string[] WheelFolders = ["../../nvidia/cu13/lib", "../../nvidia/cuda_nvrtc/lib", "."];

    private static readonly string[] SystemFolders = ["/usr/local/cuda/lib64"];

    private static readonly Lazy<nint> Loaded = new(Load);

    /// <summary>Whether the library was found.</summary>
    public static bool IsPresent => Loaded.Value != 0;

    /// <summary>Why there is no library and what to do, in one sentence.</summary>
    public static string Missing =>
        "NVRTC, CUDA's compiler at run time, cannot be loaded from "
        + $"{string.Join(" or ", Candidates().Where(file => !file.Contains('*', StringComparison.Ordinal)))}: install "
        + $"CUDA's libnvrtc, or set {LibraryVariable} to its path.";

    /// <summary>Compiles a program.</summary>
    /// <param name="source">CUDA C without includes.</param>
    /// <param name="architecture">"sm_90" compiles for one kind of GPU, "compute_90" to PTX, which the driver compiles
    /// for every newer one.</param>
    /// <returns>What cuModuleLoadData takes.</returns>
    /// <exception cref="InvalidOperationException">The library is missing or does not know the architecture, or the
    /// source has an error.</exception>
    public static byte[] Compile(string source, string architecture)
    {
        if (!IsPresent)
            throw new InvalidOperationException(Missing);
        var create = (delegate* unmanaged<nint*, byte*, byte*, int, byte**, byte**, int>)Function("nvrtcCreateProgram");
        var compile = (delegate* unmanaged<nint, int, byte**, int>)Function("nvrtcCompileProgram");
        var destroy = (delegate* unmanaged<nint*, int>)Function("nvrtcDestroyProgram");
        nint program;
        fixed (
            byte* text = Encoding.ASCII.GetBytes(source + "\0"),
                target = Encoding.ASCII.GetBytes($"--gpu-architecture={architecture}\0"),
                standard = "--std=c++17\0"u8
        )
        {
            if (create(&program, text, null, 0, null, null) is not Success and var failed)
                throw new InvalidOperationException($"NVRTC failed with code {failed} before it compiled anything.");
            try
            {
                byte** options = stackalloc byte*[] { target, standard };
                if (compile(program, 2, options) is not Success and var code)
                {
                    string log = Encoding.UTF8.GetString(Output(program, "nvrtcGetProgramLog"));
                    throw new InvalidOperationException(
                        $"NVRTC failed with code {code} for {architecture}: {Shorten(log)}"
                    );
                }

                bool native = architecture.StartsWith("sm_", StringComparison.Ordinal);
                return Output(program, native ? "nvrtcGetCUBIN" : "nvrtcGetPTX");
            }
            finally
            {
                _ = destroy(&program);
            }
        }
    }

    /// <summary>File names, paths and patterns to try, in this order.</summary>
    internal static IEnumerable<string> Candidates()
    {
        if (Environment.GetEnvironmentVariable(LibraryVariable) is { Length: > 0 } named)
            return [named];
        string? libtorch = Environment.GetEnvironmentVariable(LibTorch.FolderVariable);
        IEnumerable<string> wheels = string.IsNullOrEmpty(libtorch)
            ? []
            : WheelFolders.Select(folder => Path.GetFullPath(Path.Combine(libtorch, folder)));
        // The libraries that libtorch itself brings have a checksum in their names.
        return [.. Names, .. wheels.Concat(SystemFolders).Select(folder => Path.Combine(folder, "libnvrtc*.so*"))];
    }

    private static nint Load()
    {
        foreach (string candidate in Candidates())
        {
            foreach (string file in Expand(candidate))
            {
                if (NativeLibrary.TryLoad(file, out nint library))
                {
                    if (NativeLibrary.TryGetExport(library, "nvrtcCompileProgram", out _))
                        return library;
                    NativeLibrary.Free(library);
                }
            }
        }

        return 0;
    }

    private static IEnumerable<string> Expand(string candidate)
    {
        if (!candidate.Contains('*', StringComparison.Ordinal))
            return [candidate];
        string folder = Path.GetDirectoryName(candidate)!;
        return Directory.Exists(folder)
            ? Directory
                .GetFiles(folder, Path.GetFileName(candidate))
                .Where(file => !Path.GetFileName(file).Contains("builtins", StringComparison.Ordinal))
                .Order(StringComparer.Ordinal)
            : [];
    }

    private static nint Function(string name) =>
        NativeLibrary.TryGetExport(Loaded.Value, name, out nint function)
            ? function
            : throw new InvalidOperationException($"This NVRTC has no {name}: install one of CUDA 11.2 or newer.");

    // Of the functions that come in pairs, one for the size.
    private static byte[] Output(nint program, string function)
    {
        nuint size;
        var sizeOf = (delegate* unmanaged<nint, nuint*, int>)Function(function + "Size");
        var get = (delegate* unmanaged<nint, byte*, int>)Function(function);
        if (sizeOf(program, &size) is not Success and var failed)
            throw new InvalidOperationException($"{function}Size of NVRTC failed with code {failed}.");
        byte[] output = new byte[checked((int)size)];
        fixed (byte* bytes = output)
        {
            if (get(program, bytes) is not Success and var code)
                throw new InvalidOperationException($"{function} of NVRTC failed with code {code}.");
        }

        return output;
    }

    // The log's first errors, in one line.
    private static string Shorten(string log)
    {
        string[] lines = log.TrimEnd('\0')
            .Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        string[] errors = [.. lines.Where(line => line.Contains("error", StringComparison.Ordinal)).Take(3)];
        return string.Join("; ", errors.Length > 0 ? errors : lines.Take(3));
    }
}
