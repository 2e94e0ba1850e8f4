using LongNet.Core.Native;
using LongNet.Distributed.Launch;

namespace LongNet.Trainer.Platform;

/// <summary>A rank's processors.</summary>
internal sealed record ProcessorFacts
{
    private const string CpuInfo = "/proc/cpuinfo";

    private static readonly string[] KnownFeatures =
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

    /// <summary>Name of the processor.</summary>
    public required string Model { get; init; }

    /// <summary>Whether AMD made it.</summary>
    public required bool IsAmd { get; init; }

    /// <summary>The instruction sets that longnet or libtorch choose kernels by, slowest first.</summary>
    public required string[] Features { get; init; }

    /// <summary>Numbers of the processors that this process may run on.</summary>
    public required int[] Allowed { get; init; }

    /// <summary>Processors that all ranks of the machine have together, within a container's limits.</summary>
    public required int Machine { get; init; }

    /// <summary>Threads that the rank computes with.</summary>
    public required int Threads { get; init; }

    /// <summary>Name of this machine's processor; null where the system does not report it.</summary>
    public static string? ModelName() => ProcFile.Field(CpuInfo, "model name");

    public static ProcessorFacts Collect(RankEnvironment environment) =>
        new()
        {
            Model = ModelName() ?? "unknown",
            IsAmd = ProcessorVendor.IsAmd,
            Features = [.. KnownFeatures.Intersect(Flags())],
            Allowed = ProcessorList.Parse(ProcFile.Field("/proc/self/status", "Cpus_allowed_list"))
                ?? [.. Enumerable.Range(0, Environment.ProcessorCount)],
            // A job's control group may have fewer processors than the machine; binding is judged by what it has.
            Machine = ProcFile
                .OfControlGroups("cpuset.cpus.effective")
                .Select(list => ProcessorList.Parse(list)?.Length)
                .Append(CpuThreads.Processors().Machine)
                .Min()!
                .Value,
            Threads = CpuThreads.ForThisRank(environment),
        };

    // "flags" on x64, "Features" on ARM.
    private static string[] Flags() =>
        (ProcFile.Field(CpuInfo, "flags") ?? ProcFile.Field(CpuInfo, "Features") ?? "").Split(' ');
}
