using System.Runtime.InteropServices;
using LongNet.Core;
using LongNet.Core.Native;

namespace LongNet.Distributed.Backends.Nccl;

/// <summary>Finds and loads libnccl.so.2, once per process, at the first collective of a CUDA tensor.</summary>
internal static unsafe class NcclLibrary
{
    /// <summary>Environment variable that names the library, by path.</summary>
    public const string LibraryVariable = "LONGNET_NCCL_LIBRARY";

    /// <summary>ncclGetVersion's number for 2.18, the first that splits communicators.</summary>
    internal const int LeastVersion = 21800;

    private static readonly Lazy<(nint Handle, Version? Version, string? Problem)> Loaded = new(Load);

    /// <summary>
    /// NCCL's version, such as 2.27.5; null where it cannot be used, for which <see cref="Problem"/> has the reason.
    /// </summary>
    public static Version? Version => Loaded.Value.Version;

    /// <summary>Why NCCL cannot be used and what to do, in one sentence; null where it can.</summary>
    public static string? Problem => Loaded.Value.Problem;

    /// <exception cref="UserException">The library is missing, too old, or no NCCL.</exception>
    internal static void Require()
    {
        if (Problem is string problem)
            throw new UserException(problem);
    }

    /// <summary>File names and paths to try, in this order.</summary>
    /// <param name="named">Value of <see cref="LibraryVariable"/>.</param>
    /// <param name="libtorch">Value of <see cref="LibTorch.FolderVariable"/>.</param>
    internal static string[] Candidates(string? named, string? libtorch)
    {
        if (!string.IsNullOrEmpty(named))
            return [named];
        // The bare name finds the library that libtorch has loaded, else the system's. PyTorch's wheels have NCCL in a
        // folder beside torch.
        return string.IsNullOrEmpty(libtorch)
            ? [NcclNative.Library]
            :
            [
                NcclNative.Library,
                Path.GetFullPath(Path.Combine(libtorch, "..", "..", "nvidia", "nccl", "lib", NcclNative.Library)),
            ];
    }

    /// <exception cref="UserException">None of the files can be loaded, or the one that can is no NCCL of at least
    /// <see cref="LeastVersion"/>.</exception>
    internal static (nint Handle, Version Version) LoadFrom(string[] files)
    {
        foreach (string file in files)
        {
            if (!NativeLibrary.TryLoad(file, out nint library))
                continue;
            if (!NativeLibrary.TryGetExport(library, "ncclGetVersion", out nint function))
                throw new UserException(
                    $"The library {file} exports no ncclGetVersion, so it is not NCCL: set "
                        + $"{LibraryVariable} to libnccl.so.2."
                );
            int number = 0;
            int code = ((delegate* unmanaged<int*, int>)function)(&number);
            Version version = Decode(number);
            if (code != 0 || number < LeastVersion)
                throw new UserException(
                    $"The library {file} is NCCL {version}, but 2.18 or newer is needed: install a newer "
                        + $"one, or name it in {LibraryVariable}."
                );
            return (library, version);
        }

        throw new UserException(
            $"A CUDA tensor is to travel between ranks, but NCCL's library {string.Join(" or ", files)} "
                + "cannot be loaded: install it (Debian: libnccl2; "
                + $"PyTorch's CUDA wheels bring it as nvidia/nccl/lib/libnccl.so.2), or set {LibraryVariable} "
                + "to its path."
        );
    }

    // 22703 is 2.27.3. Versions before 2.9 have another format and are too old in either.
    internal static Version Decode(int number) => new(number / 10000, number / 100 % 100, number % 100);

    private static (nint, Version?, string?) Load()
    {
        try
        {
            var (handle, version) = LoadFrom(
                Candidates(
                    Environment.GetEnvironmentVariable(LibraryVariable),
                    Environment.GetEnvironmentVariable(LibTorch.FolderVariable)
                )
            );
            NativeLibrary.SetDllImportResolver(typeof(NcclNative).Assembly, (name, _, _) =>
                name == NcclNative.Library ? handle : 0
            );
            return (handle, version, null);
        }
        catch (UserException error)
        {
            return (0, null, error.Message);
        }
    }
}
