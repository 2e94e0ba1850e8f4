using LongNet.Distributed.Launch;

namespace LongNet.Trainer.Doctor;

/// <summary>Processors: instruction sets, enough of them, and none left idle by how ranks are bound.</summary>
internal static class ProcessorChecks
{
    private static readonly string[] BFloat16 = ["avx512_bf16", "amx_bf16", "bf16"];

    public static IEnumerable<Finding> Of(IReadOnlyList<RankFacts> ranks) =>
        [
            .. Models(ranks),
            .. RankGroups.By(ranks, rank => rank.Host).SelectMany(host => Host(host.Value, host.Ranks, ranks.Count)),
            .. Settings(ranks),
        ];

    private static IEnumerable<Finding> Models(IReadOnlyList<RankFacts> ranks)
    {
        bool fast = ranks.All(rank => rank.Processor.Features.Intersect(BFloat16).Any());
        string[] lines =
        [
            .. RankGroups.Lines(ranks, rank => $"{rank.Processor.Model} ({string.Join(' ', rank.Processor.Features)})"),
        ];
        foreach (string line in lines)
            yield return fast && lines.Length == 1
                ? new Finding("processor", line)
                : Finding.Note(
                    "processor",
                    line + (fast ? "" : "; not everywhere avx512_bf16, so bfloat16 is slower than float32")
                );
        if (lines.Length > 1)
            yield return Finding.Note(
                "processor",
                "kinds differ, so kernels do, and ranks may round differently; the slowest sets the pace"
            );
    }

    private static IEnumerable<Finding> Host(string host, IReadOnlyList<RankFacts> ranks, int all)
    {
        int machine = ranks.Max(rank => rank.Processor.Machine);
        // Where ranks could not connect, only the launcher's number is known.
        int count = Math.Max(ranks.Count, ranks[0].LocalRanks);
        string value = $"{host}: {Many(count, "rank")} on {Many(machine, "processor")}";
        yield return count <= machine
            ? new Finding("cores", value)
            : Finding.ToFix(
                "cores",
                value,
                $"{host} has fewer processors than ranks, which take turns and wait for each other: start "
                    + $"at most {Many(machine, "rank")} there."
            );

        string? remedy = BindingRemedy(
            count,
            machine,
            [.. ranks.SelectMany(rank => rank.Processor.Allowed).Distinct()],
            ranks
        );
        Mark mark = remedy is null ? Mark.Ok : Mark.Fix;
        foreach (string line in RankGroups.Lines(ranks, Affinity))
        {
            yield return new Finding(
                "affinity",
                all > 1 && ranks.Count == 1 ? $"{RankGroups.Names(ranks)}: {line}" : line,
                mark,
                remedy
            );
            remedy = null; // Only the first line of a host has it.
        }
    }

    private static string Affinity(RankFacts rank) =>
        $"processor{(rank.Processor.Allowed.Length == 1 ? "" : "s")} "
        + $"{RankGroups.Ranges(rank.Processor.Allowed)}, {Many(rank.Processor.Threads, "thread")}";

    private static string? BindingRemedy(int count, int machine, int[] together, IReadOnlyList<RankFacts> ranks)
    {
        string unbind = ranks[0].Launcher switch
        {
            RankLauncher.OpenMpi =>
                "Open MPI binds ranks unless told otherwise: source scripts/mpi-environment.sh, which sets "
                    + "OMPI_MCA_hwloc_base_binding_policy=none in the environment of mpiexec, or start with "
                    + "mpiexec --bind-to none; and without taskset.",
            RankLauncher.Mpich => "Start with mpiexec -bind-to none, and without taskset.",
            _ => "Start without taskset, or with more processors in the job or container.",
        };
        if (together.Length < Math.Min(count, machine))
        {
            return $"On {ranks[0].Host} {RankGroups.Names(ranks)} may run on {Many(together.Length, "processor")} "
                + $"of {machine} only ({RankGroups.Ranges(together)}), "
                + $"so that they take turns and wait for each other. {unbind}";
        }

        int fewest = ranks.Min(rank => rank.Processor.Allowed.Length);
        return fewest < machine / count
            ? $"On {ranks[0].Host} {(count == 1 ? "the rank is" : "ranks are")} bound to "
                + $"{Many(fewest, "processor")}, where an even share is {machine / count}. {unbind}"
            : null;
    }

    private static IEnumerable<Finding> Settings(IReadOnlyList<RankFacts> ranks)
    {
        RankFacts[] started = [.. ranks.Where(rank => rank.Settings is not null)];
        bool slow = started.Any(rank =>
            rank.Processor.IsAmd && rank.Processor.Features.Contains("avx2") && !rank.Settings!.MklOnAmd
        );
        foreach (string line in started.Length == 0 ? [] : RankGroups.Lines(started, rank => rank.Settings!.Describe()))
            yield return slow
                ? Finding.Note(
                    "settings",
                    $"{line}; MKL's fast kernels cannot be had here, so matrix products take twice as long as need be"
                )
                : new Finding("settings", line);
    }

    private static string Many(int count, string what) => $"{count} {what}{(count == 1 ? "" : "s")}";
}
