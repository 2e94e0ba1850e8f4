using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Tests.Platform;

/// <summary>What nvidia-smi prints, as a line for people.</summary>
public sealed class GpuDetailsTests
{
    [Fact]
    public void Describe_AnswersOfNvidiaSmi_AreOneLineForEachGpu()
    {
        const string Answer = """
            NVIDIA H100 80GB HBM3, 9.0, 81559 MiB, 80995 MiB, 580.159.04, Disabled, Enabled
            NVIDIA RTX A6000, 8.6, 49140 MiB, 48000 MiB, 580.159.04, [N/A], Disabled

            """;
        Assert.Equal(
            [
                "0: NVIDIA H100 80GB HBM3, compute capability 9.0, 81559 MiB (80995 MiB free), driver 580.159.04, "
                    + "MIG disabled, persistence enabled",
                "1: NVIDIA RTX A6000, compute capability 8.6, 49140 MiB (48000 MiB free), driver 580.159.04, "
                    + "MIG not available, persistence disabled",
            ],
            GpuDetails.Describe(Answer)
        );
    }

    [Fact]
    public void Describe_AnotherAnswer_IsNothing() => Assert.Empty(GpuDetails.Describe("No devices were found\n"));

    [Theory]
    [InlineData("\tGPU0\tGPU1\tCPU Affinity\nGPU0\t X \tNV18\t0-15\nGPU1\tNV18\t X \t0-15\n\nLegend:\n", "NV18")]
    [InlineData("\tGPU0\tCPU Affinity\nGPU0\t X \t0-15\n", "unknown")]
    public void Links_OfAMatrix_AreItsKinds(string matrix, string expected) =>
        Assert.Equal($"links between them: {expected}", GpuDetails.Links(matrix));
}
