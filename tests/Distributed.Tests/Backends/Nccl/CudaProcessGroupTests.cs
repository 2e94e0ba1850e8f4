using LongNet.Core.Native;
using LongNet.Distributed.Backends.Nccl;
using LongNet.TestKit.Ranks;
using TorchSharp;

namespace LongNet.Distributed.Tests.Backends.Nccl;

/// <summary>The contract of process groups over NCCL, at as many ranks as there are GPUs.</summary>
public class CudaProcessGroupTests
{
    // One rank needs no launcher, and makes every call of NCCL that does not need a second.
    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 1)]
    [InlineData(MpiKind.OpenMpi, 2)]
    [InlineData(MpiKind.OpenMpi, 3)]
    [InlineData(MpiKind.OpenMpi, 4)]
    [InlineData(MpiKind.OpenMpi, 8)]
    [InlineData(MpiKind.Mpich, 2)]
    [InlineData(MpiKind.Mpich, 4)]
    public void Collectives_OnGpus_KeepTheContract(MpiKind kind, int ranks)
    {
        Assert.SkipUnless(
            LibTorch.HasCudaDevice,
            "there is no CUDA device, or the loaded libtorch is not built for CUDA"
        );
        int gpus = torch.cuda.device_count();
        Assert.SkipWhen(gpus < ranks, $"there are {gpus} GPUs here, and every rank needs one");
        Assert.SkipWhen(NcclLibrary.Problem is not null, NcclLibrary.Problem!);
        RankTests.RunScenario(kind, ranks, "process-group-cuda");
    }
}
