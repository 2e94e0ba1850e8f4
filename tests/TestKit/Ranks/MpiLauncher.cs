namespace LongNet.TestKit.Ranks;

/// <summary>An MPI whose mpiexec tests may start.</summary>
public enum MpiKind
{
    /// <summary>No launcher: one process, no MPI.</summary>
    None,
    OpenMpi,
    Mpich,
}

/// <summary>Starts real ranks, the way the README tells users to.</summary>
/// <param name="Kind">Which MPI.</param>
/// <param name="Command">Its mpiexec; empty for none.</param>
public sealed record MpiLauncher(MpiKind Kind, string Command)
{
    // Ranks load libtorch one after another on a busy machine; a hang is what this ends.
    // Only ends what hangs: a build from scratch takes minutes on a machine that does something else besides.
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(6);

    /// <summary>
    /// The launcher, or null where this machine lacks it; <see cref="WhyMissing"/> says so for the skipped test.
    /// </summary>
    public static MpiLauncher? Find(MpiKind kind)
    {
        string[] names = kind switch
        {
            MpiKind.OpenMpi => ["mpiexec.openmpi"],
            MpiKind.Mpich => ["mpiexec.mpich", "mpiexec.hydra"],
            _ => [],
        };
        if (kind == MpiKind.None)
            return new MpiLauncher(kind, "");
        return names.Select(FindOnPath).OfType<string>().Select(path => new MpiLauncher(kind, path)).FirstOrDefault();
    }

    public static string WhyMissing(MpiKind kind) =>
        $"{kind} is not installed here; scripts/setup.sh --tests installs it.";

    /// <summary>Starts ranks without waiting for them.</summary>
    public ProgramRun Start(
        int ranks,
        string program,
        IEnumerable<string> arguments,
        string? folder = null,
        IReadOnlyDictionary<string, string?>? environment = null
    )
    {
        ArgumentNullException.ThrowIfNull(arguments);
        if (Kind == MpiKind.None)
        {
            return ranks == 1
                ? new ProgramRun(program, arguments, folder, environment)
                : throw new ArgumentOutOfRangeException(nameof(ranks), ranks, "Without a launcher there is one rank.");
        }

        // Through the script that users source, so that it is tested too.
        string script = $". '{Repository.PathOf("scripts/mpi-environment.sh")}' && exec \"$@\"";
        return new ProgramRun(
            "bash",
            ["-c", script, "bash", Command, "-n", $"{ranks}", program, .. arguments],
            folder,
            environment
        );
    }

    /// <summary>Starts ranks and waits for their end.</summary>
    public ProgramResult Run(
        int ranks,
        string program,
        IEnumerable<string> arguments,
        string? folder = null,
        IReadOnlyDictionary<string, string?>? environment = null
    )
    {
        using ProgramRun run = Start(ranks, program, arguments, folder, environment);
        return run.Wait(Limit);
    }

    private static string? FindOnPath(string name) =>
        (Environment.GetEnvironmentVariable("PATH") ?? "")
            .Split(Path.PathSeparator)
            .Select(folder => Path.Combine(folder, name))
            .FirstOrDefault(File.Exists);
}
