using System.Runtime.InteropServices;
using TorchSharp;

namespace LongNet.Core.Native;

/// <summary>Loads libtorch, before the first tensor.</summary>
public static class LibTorch
{
    /// <summary>
    /// Environment variable that names the folder of another libtorch, such as a Python installation's torch/lib.
    /// </summary>
    public const string FolderVariable = "LONGNET_LIBTORCH";

    // Each library needs those before it. The CUDA ones are missing from a libtorch for CPUs.
    private static readonly (string Pattern, bool Required)[] Order =
    [
        ("libgomp*.so*", false),
        ("libc10.so", true),
        ("libtorch_cpu.so", true),
        ("libc10_cuda.so", false),
        ("libtorch_cuda.so", false),
        ("libtorch.so", true),
    ];

    /// <summary>Loads the folder that <see cref="FolderVariable"/> names, or else the one beside the program.</summary>
    /// <exception cref="UserException">There is no libtorch, or it cannot be loaded; says where it was looked
    /// for.</exception>
    public static void Load()
    {
        string? folder = Environment.GetEnvironmentVariable(FolderVariable);
        if (!string.IsNullOrEmpty(folder))
            LoadFrom(folder);
        else if (OperatingSystem.IsLinux() && !File.Exists(Path.Combine(AppContext.BaseDirectory, "libtorch_cpu.so")))
            throw Missing("this build brings none"); // TorchSharp would search on, and copy half a NuGet cache.
        try
        {
            // Before anything else is asked of libtorch: it looks for its CUDA part once, and never again.
            if (BringsCuda)
                _ = torch.TryInitializeDeviceType(DeviceType.CUDA);
            if (torch.TryInitializeDeviceType(DeviceType.CPU))
                return;
        }
        catch (Exception error)
            when (error is TypeInitializationException or DllNotFoundException or NotSupportedException)
        {
            throw Missing(error.InnerException?.Message ?? error.Message);
        }

        throw Missing("it does not start");

        static UserException Missing(string reason) =>
            new(
                $"libtorch cannot be loaded ({reason.Split('\n')[0].TrimEnd('.')}). Build with "
                    + $"-p:TorchBackend=cpu, or set {FolderVariable} to a folder with libtorch_cpu.so."
            );
    }

    /// <summary>
    /// Whether the loaded libtorch can compute on a CUDA device of this machine. Call <see cref="Load"/> first.
    /// </summary>
    public static bool HasCudaDevice => BringsCuda && torch.cuda.is_available();

    /// <summary>The loaded libtorch's own version; null where it is too old to tell, or not for Linux.</summary>
    public static string? Version
    {
        get
        {
            if (
                !OperatingSystem.IsLinux()
                || !NativeLibrary.TryGetExport(Handle(), "aoti_torch_abi_version", out nint function)
            )
                return null;
            // One byte each: major, minor, patch, and what follows a release candidate's.
            ulong version;
            unsafe
            {
                version = ((delegate* unmanaged<ulong>)function)();
            }

            return $"{version >> 56}.{version >> 48 & 0xff}.{version >> 40 & 0xff}";
        }
    }

    /// <summary>The loaded libtorch_cpu, for looking up what it exports.</summary>
    internal static nint Handle() => NativeLibrary.Load(Path.Combine(Folder, "libtorch_cpu.so"));

    private static string Folder =>
        Environment.GetEnvironmentVariable(FolderVariable) is { Length: > 0 } folder
            ? folder
            : AppContext.BaseDirectory;

    /// <summary>Whether this libtorch is one for CUDA, whatever GPUs there are.</summary>
    public static bool BringsCuda =>
        File.Exists(Path.Combine(Folder, OperatingSystem.IsWindows() ? "torch_cuda.dll" : "libtorch_cuda.so"));

    private static void LoadFrom(string folder)
    {
        // Two copies of libtorch in one process end it.
        if (File.Exists(Path.Combine(AppContext.BaseDirectory, "libtorch_cpu.so")))
        {
            throw new UserException(
                $"{FolderVariable} names {folder}, but this build brings its own libtorch: build with "
                    + $"-p:TorchBackend=external, or unset {FolderVariable}."
            );
        }

        foreach (var (pattern, required) in Order)
        {
            string? file = Directory.Exists(folder)
                ? Directory.GetFiles(folder, pattern).Order(StringComparer.Ordinal).FirstOrDefault()
                : null;
            if (file is not null)
                LoadLibrary(file);
            else if (required)
                throw new UserException(
                    $"{FolderVariable} is {folder}, which has no {pattern}: name the folder of a libtorch, "
                        + "such as torch/lib of a PyTorch installation."
                );
        }

        string binding = Path.Combine(AppContext.BaseDirectory, "libLibTorchSharp.so");
        if (File.Exists(binding))
            LoadLibrary(binding);
    }

    private static void LoadLibrary(string file)
    {
        try
        {
            NativeLibrary.Load(file);
        }
        catch (Exception error) when (error is DllNotFoundException or BadImageFormatException)
        {
            throw new UserException($"{file} cannot be loaded: {error.Message.Split('\n')[0]}");
        }
    }
}
