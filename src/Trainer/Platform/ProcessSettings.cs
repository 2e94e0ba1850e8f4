using LongNet.Core.Attention.Kernels;
using LongNet.Core.Native;
using LongNet.Distributed.Launch;
using LongNet.Trainer.Configuration;
using TorchSharp;

namespace LongNet.Trainer.Platform;

/// <summary>What a rank has set for its whole process before it computes: threads, kernels, memory.</summary>
internal sealed record ProcessSettings
{
    /// <summary>CPU threads that libtorch computes with.</summary>
    public required int Threads { get; init; }

    /// <summary>Whether oneMKL was made to take its fast kernels on an AMD processor.</summary>
    public required bool MklOnAmd { get; init; }

    /// <summary>Whether this library's AVX-512 kernel attends, rather than libtorch's.</summary>
    public required bool Avx512Attention { get; init; }

    /// <summary>Whether the system's allocator was told to keep freed memory.</summary>
    public required bool TunedAllocator { get; init; }

    /// <summary>Applies the settings. Call before the first matrix product.</summary>
    /// <param name="config">The settings.</param>
    /// <param name="environment">Of this rank.</param>
    /// <param name="longSequences">Whether a low peak of memory matters more than the page faults of the largest
    /// tensors.</param>
    /// <returns>What took effect.</returns>
    public static ProcessSettings Apply(RuntimeConfig config, RankEnvironment environment, bool longSequences = false)
    {
        bool mklOnAmd = config.MklOnAmd == MklOnAmdSetting.Auto && Core.Native.MklOnAmd.Apply();
        MklVectorMath.Start();
        bool tunedAllocator =
            config.Allocator == AllocatorSetting.Tuned
            && MemoryAllocator.KeepFreedMemory(longSequences ? MemoryAllocator.LongSequenceTensor : int.MaxValue);
        CpuAttention.PrefersOwnKernel = config.CpuAttention == CpuAttentionSetting.Auto;
        int threads = config.Threads ?? CpuThreads.ForThisRank(environment);
        torch.set_num_threads(threads);
        return new ProcessSettings
        {
            Threads = threads,
            MklOnAmd = mklOnAmd,
            Avx512Attention = CpuAttention.UsesOwnKernel,
            TunedAllocator = tunedAllocator,
        };
    }

    /// <summary>The settings in one line, for logs and reports.</summary>
    public string Describe() =>
        $"{Threads} CPU thread{(Threads == 1 ? "" : "s")} per rank"
        + (MklOnAmd ? ", MKL's fast kernels on AMD" : "")
        + (Avx512Attention ? ", AVX-512 attention" : "")
        + (TunedAllocator ? ", tuned allocator" : "");
}
