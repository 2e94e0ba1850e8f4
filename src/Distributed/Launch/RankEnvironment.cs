using System.Globalization;
using System.Text.RegularExpressions;
using LongNet.Core;

namespace LongNet.Distributed.Launch;

/// <summary>Which program started this process as one of several ranks.</summary>
public enum RankLauncher
{
    None,

    /// <summary>Open MPI's mpiexec.</summary>
    OpenMpi,

    /// <summary>MPICH's mpiexec.</summary>
    Mpich,

    /// <summary>srun --mpi=pmix, which Open MPI's library joins.</summary>
    SlurmPmix,

    /// <summary>srun --mpi=pmi2, which MPICH's library joins.</summary>
    SlurmPmi2,
}

/// <summary>Names for messages.</summary>
internal static class RankLauncherNames
{
    /// <summary>What the user typed, e.g. "Open MPI's mpiexec".</summary>
    public static string Command(this RankLauncher launcher) =>
        launcher switch
        {
            RankLauncher.OpenMpi => "Open MPI's mpiexec",
            RankLauncher.Mpich => "MPICH's mpiexec",
            RankLauncher.SlurmPmix => "srun --mpi=pmix",
            RankLauncher.SlurmPmi2 => "srun --mpi=pmi2",
            _ => "nothing",
        };
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
/// <param name="MpiLibrary">MPI library the user names in LONGNET_MPI_LIBRARY, instead of the launcher's usual
/// one.</param>
public sealed partial record RankEnvironment(
    RankLauncher Launcher,
    int Rank,
    int Size,
    int LocalRank,
    int LocalSize,
    string? MpiLibrary = null
)
{
    /// <summary>Environment variable that names another MPI library, by file name or path.</summary>
    public const string LibraryVariable = "LONGNET_MPI_LIBRARY";

    private const string OpenMpiSize = "OMPI_COMM_WORLD_SIZE",
        PmiSize = "PMI_SIZE",
        PmiRank = "PMI_RANK",
        PmiLocalRank = "MPI_LOCALRANKID",
        PmixRank = "PMIX_RANK";

    private const string SlurmRank = "SLURM_PROCID",
        SlurmSize = "SLURM_STEP_NUM_TASKS",
        SlurmLocalRank = "SLURM_LOCALID",
        SlurmNode = "SLURM_NODEID",
        SlurmTasksPerNode = "SLURM_STEP_TASKS_PER_NODE";

    /// <summary>Whether a launcher started this process. Reads no numbers, so it never fails.</summary>
    public static bool IsLaunched =>
        Environment.GetEnvironmentVariable(OpenMpiSize) is { Length: > 0 }
        || Environment.GetEnvironmentVariable(PmiSize) is { Length: > 0 }
        || Environment.GetEnvironmentVariable(PmixRank) is { Length: > 0 };

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
                RankLauncher.OpenMpi,
                "OMPI_COMM_WORLD_RANK",
                OpenMpiSize,
                "OMPI_COMM_WORLD_LOCAL_RANK",
                "OMPI_COMM_WORLD_LOCAL_SIZE"
            );
        }

        // Slurm's own variables count only where srun itself started this rank: a job's script and every mpiexec within
        // it hand down those of the job, or of the step that is mpiexec's.
        if (variable(PmiSize) is { Length: > 0 })
        {
            return
                variable(PmiLocalRank) is not { Length: > 0 }
                && variable(PmiRank) == variable(SlurmRank)
                && variable(PmiSize) == variable(SlurmSize)
                ? ReadSlurm(RankLauncher.SlurmPmi2)
                : Read(RankLauncher.Mpich, PmiRank, PmiSize, PmiLocalRank, "MPI_LOCALNRANKS");
        }

        if (variable(PmixRank) is { Length: > 0 } pmixRank)
        {
            return pmixRank == variable(SlurmRank) && variable(SlurmSize) is { Length: > 0 }
                ? ReadSlurm(RankLauncher.SlurmPmix)
                : throw new UserException(
                    "A launcher started this process as one of several ranks (PMIX_RANK is set) without "
                        + "saying how many there are: start the ranks with mpiexec "
                        + "or with srun."
                );
        }

        return new RankEnvironment(RankLauncher.None, 0, 1, 0, 1, library);

        RankEnvironment Read(
            RankLauncher launcher,
            string rankName,
            string sizeName,
            string localRankName,
            string localSizeName
        )
        {
            int size = Number(sizeName, 1, int.MaxValue, null);
            int rank = Number(rankName, 0, size - 1, null);
            // Launchers that say nothing about machines are taken to use one.
            int localSize = Number(localSizeName, 1, size, size);
            int localRank = Number(localRankName, 0, localSize - 1, rank % localSize);
            return new RankEnvironment(launcher, rank, size, localRank, localSize, library);
        }

        RankEnvironment ReadSlurm(RankLauncher launcher)
        {
            int size = Number(SlurmSize, 1, int.MaxValue, null);
            int rank = Number(SlurmRank, 0, size - 1, null);
            int[] perNode = TasksPerNode(variable(SlurmTasksPerNode), size)
                ?? throw new UserException(
                    $"The environment variable {SlurmTasksPerNode} is {Shown(SlurmTasksPerNode)}, where srun "
                        + "puts the ranks of every node, such as '4(x2),3', "
                        + $"in all {size}: start the ranks with srun, or unset the variables it left behind."
                );
            int localSize = perNode[Number(SlurmNode, 0, perNode.Length - 1, null)];
            return new RankEnvironment(
                launcher,
                rank,
                size,
                Number(SlurmLocalRank, 0, localSize - 1, null),
                localSize,
                library
            );
        }

        int Number(string name, int least, int most, int? otherwise)
        {
            string? text = variable(name);
            if (string.IsNullOrEmpty(text) && otherwise is int value)
                return value;
            if (
                int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int number)
                && number >= least
                && number <= most
            )
                return number;
            throw new UserException(
                $"The environment variable {name} is {Shown(name)}, where a launcher puts a number from "
                    + $"{least} to {most}: "
                    + "start the ranks with mpiexec, or unset the variables a launcher left behind."
            );
        }

        string Shown(string name) => variable(name) is string text ? $"'{text}'" : "not set";
    }

    /// <summary>Reads Slurm's list of ranks per node, e.g. "4(x2),3": two nodes of 4 and one of 3.</summary>
    /// <returns>Null unless it is such a list and has <paramref name="size"/> ranks.</returns>
    private static int[]? TasksPerNode(string? list, int size)
    {
        var perNode = new List<int>();
        long total = 0;
        foreach (string entry in (list ?? "").Split(','))
        {
            Match match = NodesAlike().Match(entry);
            if (
                !match.Success
                || !int.TryParse(
                    match.Groups["tasks"].Value,
                    NumberStyles.None,
                    CultureInfo.InvariantCulture,
                    out int tasks
                )
            )
                return null;
            int nodes = 1;
            if (
                match.Groups["nodes"].Success
                && !int.TryParse(
                    match.Groups["nodes"].Value,
                    NumberStyles.None,
                    CultureInfo.InvariantCulture,
                    out nodes
                )
            )
                return null;
            total += (long)tasks * nodes;
            // Every node has a task, so this also bounds the list's length.
            if (tasks < 1 || total > size)
                return null;
            perNode.AddRange(Enumerable.Repeat(tasks, nodes));
        }

        return total == size ? [.. perNode] : null;
    }

    [GeneratedRegex(@"^(?<tasks>\d+)(\(x(?<nodes>\d+)\))?$", RegexOptions.ExplicitCapture)]
    private static partial Regex NodesAlike();
}
