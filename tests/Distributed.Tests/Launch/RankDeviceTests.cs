using LongNet.Core;
using LongNet.Distributed.Launch;

namespace LongNet.Distributed.Tests.Launch;

public class RankDeviceTests
{
    [Theory]
    [InlineData(0, 4, 4, 0)]
    [InlineData(3, 4, 4, 3)]
    [InlineData(1, 2, 8, 1)]
    // The launcher shows every rank one GPU, its own.
    [InlineData(3, 4, 1, 0)]
    public void Index_LocalRank_ChoosesTheGpu(int localRank, int localSize, int gpus, int index) =>
        Assert.Equal(index, RankDevice.Index(Rank(localRank, localSize), gpus));

    [Fact]
    public void Index_MoreRanksThanGpus_SaysHowManyToStart()
    {
        string message = Assert.Throws<UserException>(() => RankDevice.Index(Rank(1, 3), 2)).Message;
        Assert.Equal(
            "This machine has 3 ranks, but rank 1 sees 2 GPUs, and every rank needs one of its own: start "
                + "at most 2 ranks per machine.",
            message
        );
    }

    [Fact]
    public void Index_NoGpu_SaysWhereToLook()
    {
        string message = Assert.Throws<UserException>(() => RankDevice.Index(Rank(1, 2), 0)).Message;
        Assert.Equal(
            "Rank 1 finds no CUDA device: start it where there is one, with a libtorch built for CUDA "
                + "(LONGNET_LIBTORCH), or compute on the CPU.",
            message
        );
    }

    private static RankEnvironment Rank(int localRank, int localSize) =>
        new(RankLauncher.OpenMpi, localRank, localSize, localRank, localSize);
}
