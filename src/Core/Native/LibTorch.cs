using System.Runtime.InteropServices;
using TorchSharp;

namespace LongNet.Core.Native;

/// <summary>Loads libtorch, before the first tensor.</summary>
internal static partial class LibTorch
{
    /// <summary>
    /// Environment variable that names the folder of another libtorch, such as a Python installation's torch/lib.
    /// </summary>
    public const string FolderVariable = "LONGNET_LIBTORCH";

    private const string CpuLibrary = "libtorch_cpu.so";

    // Variables of libtorch's allocator for GPUs, the older one last.
    private const string Allocator = "PYTORCH_ALLOC_CONF",
        OlderAllocator = "PYTORCH_CUDA_ALLOC_CONF";

    // The versions whose classes have the layout that TorchSharp's native part was built for: it derives from one of
    // them, and another layout would corrupt memory instead of failing.
    private static readonly Version OldestSupported = new(2, 10),
        FirstUnsupported = new(2, 13);

    // Each library needs those before it. The CUDA ones are missing from a libtorch for CPUs.
    private static readonly (string Pattern, bool Required)[] Order =
    [
        ("libgomp*.so*", false),
        ("libc10.so", true),
        (CpuLibrary, true),
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
        else if (OperatingSystem.IsLinux() && FindBeside(CpuLibrary) is null)
            throw Missing("this build brings none"); // TorchSharp would search on, and copy half a NuGet cache.
        try
        {
            PreferExpandableSegments();
            RefuseOtherVersions();
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
            if (!OperatingSystem.IsLinux() || !TryGetExport("aoti_torch_abi_version", out nint function))
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

    /// <summary>
    /// Looks up a function of libtorch or of a library that it depends on, such as OpenMP's. TorchSharp must have
    /// loaded libtorch before.
    /// </summary>
    /// <returns>Whether there is one; never throws.</returns>
    internal static bool TryGetExport(string name, out nint address)
    {
        address = 0;
        // The search by name is TorchSharp's own, so it finds the copy that TorchSharp loaded, wherever that lies.
        return NativeLibrary.TryLoad("torch_cpu", typeof(torch).Assembly, null, out nint library)
            && NativeLibrary.TryGetExport(library, name, out address);
    }

    /// <summary>Whether this libtorch is one for CUDA, whatever GPUs there are.</summary>
    public static bool BringsCuda =>
        Find(OperatingSystem.IsWindows() ? "torch_cuda.dll" : "libtorch_cuda.so") is not null;

    // Tensors of long sequences leave holes that no other fits into; segments that grow have none. libtorch reads the
    // variable from the process's own environment, which Environment.SetEnvironmentVariable does not change.
    private static void PreferExpandableSegments()
    {
        if (
            OperatingSystem.IsLinux()
            && BringsCuda
            && Environment.GetEnvironmentVariable(Allocator) is null
            && Environment.GetEnvironmentVariable(OlderAllocator) is null
        )
            _ = SetVariable(Allocator, "expandable_segments:True", overwrite: 0);
    }

    private static void RefuseOtherVersions()
    {
        if (
            Environment.GetEnvironmentVariable(FolderVariable) is { Length: > 0 } folder
            && System.Version.TryParse(Version, out Version? version)
            && (version < OldestSupported || version >= FirstUnsupported)
        )
        {
            throw new UserException(
                $"{FolderVariable} is {folder}, a libtorch {version}, but this program needs version 2.10, 2.11 or "
                    + "2.12: install such a PyTorch and name its torch/lib."
            );
        }
    }

    [LibraryImport("libc", EntryPoint = "setenv", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int SetVariable(string name, string value, int overwrite);

    private static string? Find(string file) =>
        Environment.GetEnvironmentVariable(FolderVariable) is { Length: > 0 } folder
            ? Existing(folder, file)
            : FindBeside(file);

    // Beside the program, or where a program without a runtime identifier keeps its platform's libraries: those folders
    // are among the ones that the host lists.
    private static string? FindBeside(string file)
    {
        string listed = AppContext.GetData("NATIVE_DLL_SEARCH_DIRECTORIES") as string ?? "";
        return listed
            .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
            .Prepend(AppContext.BaseDirectory)
            .Select(folder => Existing(folder, file))
            .FirstOrDefault(path => path is not null);
    }

    private static string? Existing(string folder, string file) =>
        Path.Combine(folder, file) is var path && File.Exists(path) ? path : null;

    private static void LoadFrom(string folder)
    {
        // Two copies of libtorch in one process end it.
        if (FindBeside(CpuLibrary) is not null)
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

        if (FindBeside("libLibTorchSharp.so") is { } binding)
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
