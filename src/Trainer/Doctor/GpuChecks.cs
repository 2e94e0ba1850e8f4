using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Doctor;

/// <summary>GPUs, whether libtorch can use them, and what joins them.</summary>
internal static class GpuChecks
{
    public static IEnumerable<Finding> Of(IReadOnlyList<RankFacts> ranks) =>
        RankGroups.By(ranks, rank => rank.Host).SelectMany(host => Host(host.Value, host.Ranks, ranks.Count));

    private static IEnumerable<Finding> Host(string host, IReadOnlyList<RankFacts> ranks, int all)
    {
        GpuFacts gpus = ranks[0].Gpus;
        bool forCuda = ranks.Any(rank => rank.Gpus.LibTorchForCuda);
        int usable = ranks.Min(rank => rank.Gpus.Usable.Length);
        if (!forCuda)
        {
            yield return gpus.Present.Length == 0
                ? new Finding("gpus", $"{host}: none")
                : Finding.Note(
                    "gpus",
                    $"{host}: {Names(gpus.Present)}, not used by this libtorch for CPUs; build with "
                        + "-p:TorchBackend=cuda, or external with LONGNET_LIBTORCH"
                );
        }
        else if (usable == 0)
        {
            yield return Finding.ToFix(
                "gpus",
                $"{host}: {(gpus.Present.Length == 0 ? "none" : Names(gpus.Present))}, of which libtorch can use none",
                gpus.Present.Length == 0
                    ? $"libtorch on {host} is one for CUDA, but there is no NVIDIA driver with a GPU: install "
                        + "the driver (start containers with --gpus all), or build with -p:TorchBackend=cpu."
                    : $"libtorch on {host} is one for CUDA, but cannot use {Names(gpus.Present)}: install a "
                        + "driver that is new enough for its CUDA, and look at CUDA_VISIBLE_DEVICES."
            );
        }
        else
        {
            string value = $"{host}: {Names(gpus.Usable)}";
            yield return ranks.Count <= usable
                ? new Finding("gpus", value)
                : Finding.ToFix(
                    "gpus",
                    value,
                    $"{host} has {usable} usable GPU{(usable == 1 ? "" : "s")} for {ranks.Count} ranks, "
                        + $"each of which needs its own: start at most {usable} there."
                );
        }

        foreach (string line in gpus.Details)
            yield return new Finding("gpu", $"{host}: {line}");
        if (gpus.KernelProblem is { } problem)
            yield return Finding.Note("kernels", $"{host}: {problem}");

        string nccl = $"{host}: {gpus.Nccl ?? "none"}";
        if (gpus.Nccl is null && usable > 0 && all > 1)
        {
            yield return Finding.ToFix(
                "nccl",
                nccl,
                $"libnccl.so.2 cannot be loaded on {host}, and ranks exchange what lies on GPUs through it: "
                    + "install NCCL 2 (libnccl2 of NVIDIA's packages, or pip's nvidia-nccl-cu12 with its folder "
                    + "in LD_LIBRARY_PATH)."
            );
        }
        else
        {
            yield return new Finding("nccl", gpus.Nccl is null ? $"{nccl}, and none is needed" : nccl);
        }
    }

    // E.g. "4 x NVIDIA H100 80GB HBM3".
    private static string Names(string[] gpus) =>
        string.Join(", ", gpus.GroupBy(gpu => gpu).Select(group => $"{group.Count()} x {group.Key}"));
}
