using LongNet.Core;
using LongNet.Core.Native;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Distributed.Launch;

/// <summary>Which GPU a rank computes on: one for each, chosen by its place among the ranks of its machine.</summary>
public static class RankDevice
{
    /// <summary>This rank's GPU.</summary>
    /// <exception cref="UserException">libtorch finds no GPU, or fewer than this machine has ranks.</exception>
    public static Device Cuda(RankEnvironment environment)
    {
        ArgumentNullException.ThrowIfNull(environment);
        return new Device(DeviceType.CUDA, Index(environment, LibTorch.HasCudaDevice ? cuda.device_count() : 0));
    }

    /// <param name="gpus">How many GPUs this process sees.</param>
    internal static int Index(RankEnvironment environment, int gpus)
    {
        if (gpus == 0)
        {
            throw new UserException(
                $"Rank {environment.Rank} finds no CUDA device: start it where there is one, with a "
                    + $"libtorch built for CUDA ({LibTorch.FolderVariable}), or compute on the CPU."
            );
        }

        // Ranks that see one GPU each may see different GPUs. If they do not, the first collective of CUDA tensors
        // throws.
        if (gpus > 1 && environment.LocalSize > gpus)
        {
            throw new UserException(
                $"This machine has {environment.LocalSize} ranks, but rank {environment.Rank} sees {gpus} "
                    + $"GPUs, and every rank needs one of its own: start at most {gpus} ranks per machine."
            );
        }

        return environment.LocalRank % gpus;
    }
}
