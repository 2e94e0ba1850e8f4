using LongNet.Distributed.Launch;

namespace LongNet.Trainer.Platform;

/// <summary>A rank's processors.</summary>
/// <param name="Model">Name of the processor.</param>
/// <param name="Vendor">E.g. "AuthenticAMD"; empty where unknown.</param>
/// <param name="Features">Those of its instruction sets that longnet or libtorch choose kernels by, slowest
/// first.</param>
/// <param name="Allowed">Numbers of the processors that this process may run on.</param>
/// <param name="Machine">Processors that all ranks of the machine have together, within a container's limits.</param>
/// <param name="Threads">Threads that the rank computes with.</param>
internal sealed record ProcessorFacts(
    string Model,
    string Vendor,
    string[] Features,
    int[] Allowed,
    int Machine,
    int Threads
)
{
    private static readonly string[] Known =
    [
        "avx2",
        "fma",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_bf16",
        "asimd",
        "sve",
        "bf16",
    ];

    public static ProcessorFacts Collect(RankEnvironment environment)
    {
        const string File = "/proc/cpuinfo";
        string[] flags = (ProcFile.Field(File, "flags") ?? ProcFile.Field(File, "Features") ?? "").Split(' ');
        return new ProcessorFacts(
            ProcFile.Field(File, "model name") ?? "unknown",
            ProcFile.Field(File, "vendor_id") ?? "",
            [.. Known.Intersect(flags)],
            Numbers(ProcFile.Field("/proc/self/status", "Cpus_allowed_list"))
                ?? [.. Enumerable.Range(0, Environment.ProcessorCount)],
            // A job's group may have fewer than the machine, and binding within it is judged by those.
            ProcFile
                .OfControlGroups("cpuset.cpus.effective")
                .Select(list => Numbers(list)?.Length)
                .Append(CpuThreads.Processors().Machine)
                .Min()!
                .Value,
            CpuThreads.ForThisRank(environment)
        );
    }

    /// <summary>The numbers of a kernel's list such as "0-3,8"; null where it is none.</summary>
    internal static int[]? Numbers(string? list)
    {
        var numbers = new List<int>();
        foreach (string range in list?.Split(',', StringSplitOptions.RemoveEmptyEntries) ?? [])
        {
            string[] ends = range.Split('-');
            if (!int.TryParse(ends[0], out int first) || !int.TryParse(ends[^1], out int last) || last < first)
                return null;
            numbers.AddRange(Enumerable.Range(first, last - first + 1));
        }

        return numbers.Count == 0 ? null : [.. numbers];
    }
}
