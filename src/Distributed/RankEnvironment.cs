using System.Globalization;
using LongNet.Core;

namespace LongNet.Distributed;

/// <summary>Which program started this process as one of several ranks.</summary>
public enum RankLauncher
{
    None,
    OpenMpi,
    Mpich,
}

/// <summary>
/// What the launcher said to this process through environment variables. The only reader of them. Known before MPI is
/// loaded, so that a program can let rank 0 alone speak from its first line.
/// </summary>
/// <param name="Launcher">Who started the process; <see cref="RankLauncher.None"/> for a plain start.</param>
/// <param name="Rank">0 … Size − 1.</param>
/// <param name="Size">Processes the launcher started in all.</param>
/// <param name="LocalRank">Place among the ranks of this machine.</param>
/// <param name="LocalSize">Ranks on this machine.</param>
/// <param name="MpiLibrary">MPI library the user names in LONGNET_MPI_LIBRARY, instead of the launcher's usual one.</param>
public sealed record RankEnvironment(
    RankLauncher Launcher, int Rank, int Size, int LocalRank, int LocalSize, string? MpiLibrary = null)
{
    /// <summary>Environment variable that names another MPI library, by file name or path.</summary>
    public const string LibraryVariable = "LONGNET_MPI_LIBRARY";

    private const string OpenMpiSize = "OMPI_COMM_WORLD_SIZE", PmiSize = "PMI_SIZE";

    /// <summary>Whether a launcher started this process. Reads no numbers, so it never fails.</summary>
    public static bool IsLaunched => Environment.GetEnvironmentVariable(OpenMpiSize) is { Length: > 0 }
        || Environment.GetEnvironmentVariable(PmiSize) is { Length: > 0 };

    /// <summary>Whether this process speaks for all: rank 0.</summary>
    public bool IsRoot => Rank == 0;

    /// <summary>Reads this process's environment.</summary>
    /// <exception cref="UserException">A launcher's variable holds no sensible number.</exception>
    public static RankEnvironment FromProcess() => From(Environment.GetEnvironmentVariable);

    /// <summary>Reads any set of variables.</summary>
    /// <param name="variable">A variable's value by its name; null where unset.</param>
    /// <exception cref="UserException">A launcher's variable holds no sensible number.</exception>
    public static RankEnvironment From(Func<string, string?> variable)
    {
        ArgumentNullException.ThrowIfNull(variable);
        string? library = variable(LibraryVariable) is { Length: > 0 } named ? named : null;
        // Open MPI first: its ranks may carry PMI variables too, MPICH's never carry Open MPI's.
        if (variable(OpenMpiSize) is { Length: > 0 })
        {
            return Read(
                RankLauncher.OpenMpi, "OMPI_COMM_WORLD_RANK", OpenMpiSize,
                "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE");
        }

        if (variable(PmiSize) is { Length: > 0 })
            return Read(RankLauncher.Mpich, "PMI_RANK", PmiSize, "MPI_LOCALRANKID", "MPI_LOCALNRANKS");
        if (variable("PMIX_RANK") is { Length: > 0 })
        {
            throw new UserException(
                "A launcher started this process as one of several ranks (PMIX_RANK is set) without saying how many there are: start the ranks with mpiexec, " +
                "or with srun --mpi=pmi2.");
        }

        return new RankEnvironment(RankLauncher.None, 0, 1, 0, 1, library);

        RankEnvironment Read(RankLauncher launcher, string rankName, string sizeName, string localRankName, string localSizeName)
        {
            int size = Number(sizeName, 1, int.MaxValue, null);
            int rank = Number(rankName, 0, size - 1, null);
            // Launchers that say nothing about machines are taken to use one.
            int localSize = Number(localSizeName, 1, size, size);
            int localRank = Number(localRankName, 0, localSize - 1, rank % localSize);
            return new RankEnvironment(launcher, rank, size, localRank, localSize, library);
        }

        int Number(string name, int least, int most, int? otherwise)
        {
            string? text = variable(name);
            if (string.IsNullOrEmpty(text) && otherwise is int value)
                return value;
            if (int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int number) && number >= least && number <= most)
                return number;
            throw new UserException(
                $"The environment variable {name} is {(text is null ? "not set" : $"'{text}'")}, where a launcher puts a number from {least} to {most}: " +
                "start the ranks with mpiexec, or unset the variables a launcher left behind.");
        }
    }
}
