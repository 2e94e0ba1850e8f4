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
    /// <summary>The command that the user typed, e.g. "Open MPI's mpiexec".</summary>
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
/// This process's place in the job, as its launcher passes it in environment variables; the only reader of them. It is
/// known before MPI is loaded, so that a program can let only rank 0 report from its first line.
/// </summary>
/// <param name="Launcher">The program that started the process; <see cref="RankLauncher.None"/> for a plain
/// start.</param>
/// <param name="Rank">0 … Size − 1.</param>
/// <param name="Size">Ranks of the job.</param>
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

    /// <summary>Whether this is rank 0, which reports for all.</summary>
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
        var variables = new LauncherVariables(variable);
        // Open MPI first: its ranks may have PMI variables too, MPICH's never have Open MPI's.
        RankEnvironment environment =
            variables.Has(OpenMpiSize) ? FromOpenMpi(variables)
            : variables.Has(PmiSize) ? FromPmi(variables)
            : variables.Has(PmixRank) ? FromPmix(variables)
            : new RankEnvironment(RankLauncher.None, 0, 1, 0, 1);
        return environment with { MpiLibrary = variables.Has(LibraryVariable) ? variables[LibraryVariable] : null };
    }

    private static RankEnvironment FromOpenMpi(LauncherVariables variables) =>
        FromMpiexec(
            variables,
            RankLauncher.OpenMpi,
            rankName: "OMPI_COMM_WORLD_RANK",
            sizeName: OpenMpiSize,
            localRankName: "OMPI_COMM_WORLD_LOCAL_RANK",
            localSizeName: "OMPI_COMM_WORLD_LOCAL_SIZE"
        );

    private static RankEnvironment FromPmi(LauncherVariables variables)
    {
        // A job's script passes the job's Slurm variables on to all that it starts, and srun passes those of its step
        // on to an mpiexec. They describe this rank only where srun itself started it: then both sets agree.
        bool isFromSrun =
            !variables.Has(PmiLocalRank)
            && variables[PmiRank] == variables[SlurmRank]
            && variables[PmiSize] == variables[SlurmSize];
        return isFromSrun
            ? FromSlurm(variables, RankLauncher.SlurmPmi2)
            : FromMpiexec(
                variables,
                RankLauncher.Mpich,
                rankName: PmiRank,
                sizeName: PmiSize,
                localRankName: PmiLocalRank,
                localSizeName: "MPI_LOCALNRANKS"
            );
    }

    private static RankEnvironment FromPmix(LauncherVariables variables) =>
        variables[PmixRank] == variables[SlurmRank] && variables.Has(SlurmSize)
            ? FromSlurm(variables, RankLauncher.SlurmPmix)
            : throw new UserException(
                "A launcher started this process as one of several ranks (PMIX_RANK is set) without "
                    + "saying how many there are: start the ranks with mpiexec "
                    + "or with srun."
            );

    private static RankEnvironment FromMpiexec(
        LauncherVariables variables,
        RankLauncher launcher,
        string rankName,
        string sizeName,
        string localRankName,
        string localSizeName
    )
    {
        int size = variables.Number(sizeName, 1, int.MaxValue);
        int rank = variables.Number(rankName, 0, size - 1);
        // A launcher that sets no variables about machines is assumed to use one machine.
        int localSize = variables.Number(localSizeName, 1, size, otherwise: size);
        int localRank = variables.Number(localRankName, 0, localSize - 1, otherwise: rank % localSize);
        return new RankEnvironment(launcher, rank, size, localRank, localSize);
    }

    private static RankEnvironment FromSlurm(LauncherVariables variables, RankLauncher launcher)
    {
        int size = variables.Number(SlurmSize, 1, int.MaxValue);
        int rank = variables.Number(SlurmRank, 0, size - 1);
        int[] perNode = TasksPerNode(variables[SlurmTasksPerNode], size)
            ?? throw new UserException(
                $"The environment variable {SlurmTasksPerNode} is {variables.Shown(SlurmTasksPerNode)}, where srun "
                    + "puts the ranks of every node, such as '4(x2),3', "
                    + $"in all {size}: start the ranks with srun, or unset the variables it left behind."
            );
        int localSize = perNode[variables.Number(SlurmNode, 0, perNode.Length - 1)];
        int localRank = variables.Number(SlurmLocalRank, 0, localSize - 1);
        return new RankEnvironment(launcher, rank, size, localRank, localSize);
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
