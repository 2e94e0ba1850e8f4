using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>The law of the project, end to end: the number of ranks and their mesh change no number of a run.</summary>
public sealed class RanksAgreeTests(RanksAgreeTests.OneRank oneRank) : IClassFixture<RanksAgreeTests.OneRank>
{
    private const int Steps = 20;

    // float32 sums in another order, over 20 steps of training; measured below 2e-7.
    private const double Tolerance = 1e-5;

    [Theory]
    [InlineData(MpiKind.OpenMpi, 1, 1)]
    [InlineData(MpiKind.OpenMpi, 1, 2)]
    [InlineData(MpiKind.OpenMpi, 2, 1)]
    [InlineData(MpiKind.OpenMpi, 1, 4)]
    [InlineData(MpiKind.OpenMpi, 2, 2)]
    [InlineData(MpiKind.OpenMpi, 4, 1)]
    [InlineData(MpiKind.Mpich, 1, 2)]
    [InlineData(MpiKind.Mpich, 2, 2)]
    public void Train_OnAnyMesh_GivesTheNumbersOfOneRank(MpiKind kind, int data, int sequence)
    {
        using var folder = new TemporaryFolder();
        TrainingJob.RanksAgree(kind, data, sequence, folder["run"]);

        Assert.Equal(
            Enumerable.Range(1, Steps).Select(step => (double)step),
            TrainingJob.Values(folder["run"], "loss", "step")
        );
        foreach (string key in new[] { "loss", "grad_norm", "eval_loss", "eval_bits_per_byte" })
            Compare.AssertClose(
                TrainingJob.Values(folder["run"], key),
                TrainingJob.Values(oneRank.Output, key),
                Tolerance,
                key
            );
        foreach (string key in new[] { "lr", "tokens" })
            Assert.Equal(TrainingJob.Values(oneRank.Output, key), TrainingJob.Values(folder["run"], key));
        Assert.All(TrainingJob.Values(folder["run"], "bytes_sent"), bytes =>
            Assert.Equal(data * sequence > 1, bytes > 0)
        );
    }

    [Fact]
    public void Train_OneRank_Learns()
    {
        double[] loss = TrainingJob.Values(oneRank.Output, "loss");
        Assert.Equal(Steps, loss.Length);
        // Untrained bytes cost ln 256 = 5.5 nats.
        Assert.InRange(loss[0], 5.3, 5.8);
        Assert.InRange(loss[^1], 1.0, 4.6);
    }

    /// <summary>The run without a launcher that all others are compared with.</summary>
    public sealed class OneRank : IDisposable
    {
        private readonly TemporaryFolder folder = new();

        public OneRank() => TrainingJob.RanksAgree(MpiKind.None, 1, 1, Output);

        public string Output => folder["run"];

        public void Dispose() => folder.Dispose();
    }
}
