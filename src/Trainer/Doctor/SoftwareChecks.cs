using LongNet.Distributed.Launch;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Doctor;

/// <summary>Programs and libraries: which, and the same on all ranks.</summary>
internal static class SoftwareChecks
{
    public static IEnumerable<Finding> Of(IReadOnlyList<RankFacts> ranks) =>
        [
            .. Alike(
                ranks,
                "program",
                rank => rank.Program,
                "Install the same build of longnet and the same .NET on every machine, or start all ranks "
                    + "from one shared folder."
            ),
            .. ranks[0].LibTorch is null
                ? []
                : Alike(
                    ranks,
                    "libtorch",
                    rank => rank.LibTorch!,
                    "Sums round as libtorch's kernels do, so ranks drift apart: build for the same "
                        + "TorchBackend, or set LONGNET_LIBTORCH to the same version, on every machine."
                ),
            .. Mpi(ranks),
        ];

    /// <summary>What must be the same everywhere.</summary>
    public static IEnumerable<Finding> Alike(
        IReadOnlyList<RankFacts> ranks,
        string subject,
        Func<RankFacts, string> value,
        string remedy
    )
    {
        string[] lines = [.. RankGroups.Lines(ranks, value)];
        if (lines.Length == 1)
            return [new Finding(subject, lines[0])];
        return lines.Select(
            (line, index) =>
                new Finding(
                    subject,
                    line,
                    Mark.Fix,
                    index == 0 ? $"Ranks differ ({string.Join("; ", lines)}). {remedy}" : null
                )
        );
    }

    private static IEnumerable<Finding> Mpi(IReadOnlyList<RankFacts> ranks)
    {
        if (ranks[0].Launcher == RankLauncher.None)
            return [WithoutLauncher()];
        // Whoever tried to start the library has reported what went wrong with it.
        return ranks[0].Mpi is null
            ? []
            : Alike(
                ranks,
                "mpi",
                rank => $"{rank.Mpi!.Version} ({rank.Mpi.File}, {rank.Mpi.Interface}'s interface)",
                "Install the same version of the same MPI on every machine."
            );
    }

    private static Finding WithoutLauncher()
    {
        const string Alone = "none, as no mpiexec started this process";
        if (ExternalProgram.OnPath("mpiexec") is not string mpiexec)
            return Finding.Note(
                "mpi",
                $"{Alone}, and none is on the PATH: scripts/setup.sh installs one for more than one rank"
            );
        // Open MPI's has it in the first line, MPICH's in a line of its own.
        string? version = ExternalProgram.Output(mpiexec, "--version") is string text
            ? text.Split('\n')
                .Select(line => line.Trim())
                .FirstOrDefault(line => line.StartsWith("Version:", StringComparison.Ordinal))
                is string mpich
                ? $"MPICH {mpich["Version:".Length..].Trim()}"
                : text.Split('\n')[0].Trim()
            : null;
        return new Finding("mpi", $"{Alone}; {mpiexec} is {version ?? "of unknown version"}");
    }
}
