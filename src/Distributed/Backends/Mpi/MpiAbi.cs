using System.Runtime.InteropServices;

namespace LongNet.Distributed.Backends.Mpi;

/// <summary>The constants in which MPI libraries differ, recognized by the symbols that a library exports.</summary>
/// <param name="Name">For messages.</param>
/// <param name="World">MPI_COMM_WORLD.</param>
/// <param name="Byte">MPI_BYTE.</param>
/// <param name="ThreadMultiple">MPI_THREAD_MULTIPLE.</param>
/// <param name="InPlace">MPI_IN_PLACE.</param>
/// <param name="AnySource">MPI_ANY_SOURCE.</param>
/// <param name="AnyTag">MPI_ANY_TAG.</param>
/// <param name="ErrorsReturn">MPI_ERRORS_RETURN; 0 where it is left as it is: errors end the job.</param>
/// <param name="SourceOffset">Where an MPI_Status has the source, in bytes; the tag follows it.</param>
internal sealed unsafe record MpiAbi(
    string Name,
    nint World,
    nint Byte,
    int ThreadMultiple,
    nint InPlace,
    int AnySource,
    int AnyTag,
    nint ErrorsReturn,
    int SourceOffset
)
{
    /// <summary>Room for any library's MPI_Status.</summary>
    public const int StatusBytes = 64;

    /// <summary>
    /// Finds out which of the three binary interfaces a loaded library has. Callable before MPI_Init.
    /// </summary>
    public static MpiAbi Of(nint library)
    {
        // Libraries of MPI 5 export this function too; natively compiled ones answer −1.
        if (NativeLibrary.TryGetExport(library, "MPI_Abi_get_version", out nint address))
        {
            int major = -1,
                minor = -1;
            int code = ((delegate* unmanaged<int*, int*, int>)address)(&major, &minor);
            if (code == 0 && major >= 1)
                return new MpiAbi("the standard ABI", 0x101, 0x247, 4096, 1, -1, -2, 0, 0);
        }

        // Open MPI's handles are the addresses of exported objects, MPICH's are integers.
        return NativeLibrary.TryGetExport(library, "ompi_mpi_comm_world", out nint world)
            ? new MpiAbi(
                "Open MPI",
                world,
                NativeLibrary.GetExport(library, "ompi_mpi_byte"),
                3,
                1,
                -1,
                -1,
                NativeLibrary.GetExport(library, "ompi_mpi_errors_return"),
                0
            )
            : new MpiAbi("MPICH", 0x44000000, 0x4c00010d, 3, -1, -2, -1, 0x54000001, 8);
    }
}
