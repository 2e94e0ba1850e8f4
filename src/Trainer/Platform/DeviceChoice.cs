using System.Runtime.InteropServices;
using LongNet.Core;
using LongNet.Core.Attention.Kernels;
using LongNet.Core.Devices;
using LongNet.Core.Native;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Launch;
using LongNet.Trainer.Configuration;
using static TorchSharp.torch;

namespace LongNet.Trainer.Platform;

/// <summary>Where the ranks of a job compute: all on processors, or all on GPUs, one for each.</summary>
internal static class DeviceChoice
{
    /// <summary>This rank's device. Collective.</summary>
    /// <param name="world">All ranks.</param>
    /// <param name="environment">Of this rank.</param>
    /// <param name="config">The same on all ranks.</param>
    /// <exception cref="AgreedUserException">Some ranks find no GPU where others do, or all where they are to use
    /// one; or a rank's GPU cannot be used.</exception>
    public static ComputeDevice Agree(ProcessGroup world, RankEnvironment environment, RunConfig config)
    {
        int own = config.Runtime.Device != DeviceSetting.Cpu && LibTorch.HasCudaDevice ? cuda.device_count() : 0;
        if (config.Runtime.Device == DeviceSetting.Cpu)
            return ComputeDevice.Cpu;
        using var scope = NewDisposeScope();
        long[] gpus = world.AllGather(tensor([(long)own], ScalarType.Int64, CPU)).data<long>().ToArray();
        if (gpus.All(count => count == 0))
        {
            if (config.Runtime.Device == DeviceSetting.Auto)
                return ComputeDevice.Cpu;
            throw new AgreedUserException(
                $"runtime.device is cuda, but no rank finds a CUDA device{Reason()}: run where an NVIDIA GPU and its "
                    + $"driver are, with a libtorch for CUDA (-p:TorchBackend=cuda, or {LibTorch.FolderVariable}), or "
                    + "set runtime.device to cpu."
            );
        }

        int[] without = [.. Enumerable.Range(0, gpus.Length).Where(rank => gpus[rank] == 0)];
        if (without.Length > 0)
        {
            throw new AgreedUserException(
                $"{(without.Length == 1 ? "Rank" : "Ranks")} {string.Join(", ", without.Take(8))}"
                    + (without.Length > 8 ? $" and {without.Length - 8} more" : "")
                    + " find no CUDA device, but the other ranks do: start ranks only where there are GPUs, or set "
                    + "runtime.device to cpu."
            );
        }

        return RankConsensus.Run(world, () => Open(RankDevice.Cuda(environment).index, config));
    }

    private static ComputeDevice Open(int index, RunConfig config)
    {
        backends.cuda.matmul.allow_tf32 = config.Precision.Tf32;
        if (config.Runtime.CudaAttention != CudaAttentionKernel.Auto)
            CudaAttention.Preferred = config.Runtime.CudaAttention;
        try
        {
            return ComputeDevice.Cuda(index);
        }
        catch (ExternalException error)
        {
            throw new UserException(
                $"The GPU cuda:{index} cannot be used: {error.Message.Split('\n')[0].TrimEnd('.')}. nvidia-smi shows "
                    + "what else runs there; runtime.device: cpu computes without it.",
                error
            );
        }
    }

    // What is missing, where that is known.
    private static string Reason() =>
        LibTorch.BringsCuda ? " that its libtorch can use" : ", as this libtorch is one for CPUs";
}
