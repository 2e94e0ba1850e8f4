namespace LongNet.Distributed.Backends.Mpi;

/// <summary>The MPI library that transfers CPU tensors.</summary>
/// <param name="File">File name or path that it was loaded by.</param>
/// <param name="Interface">Its binary interface: Open MPI's, MPICH's or the standard one.</param>
/// <param name="Version">Its name and version as the library reports them, e.g. "Open MPI v4.1.4" or "MPICH
/// 4.0.2".</param>
internal sealed record MpiLibrary(string File, string Interface, string Version)
{
    internal static MpiLibrary Of(MpiNative native) =>
        new(native.LibraryName, native.Abi.Name, Short(native.LibraryVersion()));

    /// <summary>The name and version, without the lines and clauses about the build.</summary>
    internal static string Short(string text) =>
        string.Join(
            ' ',
            text.Split('\n', ',')[0]
                .Replace("Version:", "", StringComparison.Ordinal)
                .Split([' ', '\t'], StringSplitOptions.RemoveEmptyEntries)
        );
}
