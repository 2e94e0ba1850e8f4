using LongNet.Core.Attention.Kernels;
using LongNet.Core.Native;
using LongNet.Distributed.Launch;
using LongNet.Trainer.Configuration;
using TorchSharp;

namespace LongNet.Trainer.Platform;

/// <summary>What a rank sets for its whole process before it computes: threads, kernels, memory.</summary>
internal static class ProcessSettings
{
    /// <summary>What <see cref="Apply"/> says where it made MKL take its fast kernels.</summary>
    public const string FastKernels = "MKL's fast kernels on AMD";

    /// <summary>Applies the settings. Call before the first matrix product.</summary>
    /// <param name="config">The settings.</param>
    /// <param name="environment">Of this rank.</param>
    /// <param name="longSequences">Whether the peak of memory counts more than page faults of the largest
    /// tensors.</param>
    /// <returns>What was set, for the log.</returns>
    public static string Apply(RuntimeConfig config, RankEnvironment environment, bool longSequences = false)
    {
        bool fastKernels = config.MklOnAmd == MklOnAmdSetting.Auto && MklOnAmd.Apply();
        MklVectorMath.Start();
        bool keepsMemory =
            config.Allocator == AllocatorSetting.Tuned
            && MemoryAllocator.KeepFreedMemory(longSequences ? MemoryAllocator.LongSequenceTensor : int.MaxValue);
        CpuAttention.PrefersOwnKernel = config.CpuAttention == CpuAttentionSetting.Auto;
        int threads = config.Threads ?? CpuThreads.ForThisRank(environment);
        torch.set_num_threads(threads);
        return $"{threads} CPU thread{(threads == 1 ? "" : "s")} per rank"
            + (fastKernels ? $", {FastKernels}" : "")
            + (CpuAttention.UsesOwnKernel ? ", AVX-512 attention" : "")
            + (keepsMemory ? ", tuned allocator" : "");
    }
}
