using LongNet.Core.Cuda;
using LongNet.Core.Native;
using LongNet.Distributed.Backends.Nccl;
using TorchSharp;

namespace LongNet.Trainer.Platform;

/// <summary>GPUs of a rank's machine, and what the rank can use of them.</summary>
/// <param name="Present">Names of the GPUs that the NVIDIA driver knows.</param>
/// <param name="LibTorchForCuda">Whether the loaded libtorch is one for CUDA.</param>
/// <param name="Usable">Names of those that libtorch can compute on.</param>
/// <param name="Nccl">Version of NCCL; null where it cannot be loaded.</param>
internal sealed record GpuFacts(string[] Present, bool LibTorchForCuda, string[] Usable, string? Nccl)
{
    /// <summary>A line for each GPU, of <see cref="GpuDetails"/>.</summary>
    public string[] Details { get; init; } = [];

    /// <summary>Why this project's own CUDA kernels cannot be used; null where they can, or there is no GPU.</summary>
    public string? KernelProblem { get; init; }

    public static GpuFacts Collect(bool libTorchLoaded)
    {
        bool forCuda = libTorchLoaded && LibTorch.BringsCuda;
        int count = libTorchLoaded && LibTorch.HasCudaDevice ? torch.cuda.device_count() : 0;
        return new GpuFacts(
            KnownToTheDriver(),
            forCuda,
            [.. Enumerable.Range(0, count).Select(index => CudaDevice.Name(index) ?? "CUDA device")],
            NcclLibrary.Version?.ToString()
        )
        {
            Details = GpuDetails.Collect(),
            KernelProblem = count > 0 ? CudaKernels.Problem(0) : null,
        };
    }

    private static string[] KnownToTheDriver()
    {
        const string Folder = "/proc/driver/nvidia/gpus";
        if (Directory.Exists(Folder))
            return
            [
                .. Directory
                    .GetDirectories(Folder)
                    .Order(StringComparer.Ordinal)
                    .Select(gpu => ProcFile.Field(Path.Combine(gpu, "information"), "Model") ?? "NVIDIA GPU"),
            ];
        // "GPU 0: NVIDIA H100 80GB HBM3 (UUID: ...)"
        return
            ExternalProgram.OnPath("nvidia-smi") is string program
            && ExternalProgram.Output(program, "-L") is string list
            ?
            [
                .. list.Split('\n')
                    .Where(line => line.StartsWith("GPU ", StringComparison.Ordinal))
                    .Select(line => line.Split(": ", 2)[^1].Split(" (UUID")[0]),
            ]
            : [];
    }
}
