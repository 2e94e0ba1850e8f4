using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>
/// A checkpoint that an older version of this program wrote resumes, and its run goes on as it did then.
/// </summary>
public sealed class StoredCheckpointTests : IDisposable
{
    private const string Stored = "tests/Trainer.Tests/Checkpoints/Format3";

    // float32 over four steps, on a processor that may have other kernels than the one that wrote the checkpoint.
    private const double Tolerance = 1e-5;

    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Theory]
    [InlineData(MpiKind.OpenMpi, 2, true)]
    [InlineData(MpiKind.None, 1, false)]
    public void Resume_FromACheckpointOfFormat3_GivesTheLossesOfThen(MpiKind kind, int ranks, bool sharded)
    {
        string[] settings =
        [
            "model.layers=1",
            "model.d_model=16",
            "model.dropout=0.1",
            "training.steps=8",
            "training.sequence_length=128",
            "training.batch_size=2",
            "model.attention.segment_lengths=[32, 64, 128]",
            "model.attention.dilation_rates=[1, 2, 3]",
            "runtime.threads=1",
            "evaluation.every_steps=0",
            $"parallel.shard_optimizer={(sharded ? "true" : "false")}",
        ];
        string checkpoint = Repository.PathOf(Path.Combine(Stored, "step-00000004"));
        TrainingJob.RanksAgree(
            kind,
            1,
            ranks,
            folder["run"],
            [.. settings.SelectMany(setting => new[] { "--set", setting }), "--resume", checkpoint]
        );
        foreach (string key in new[] { "loss", "grad_norm" })
            Compare.AssertClose(
                TrainingJob.Values(folder["run"], key),
                TrainingJob.Values(Repository.PathOf(Stored), key)[4..],
                Tolerance,
                key
            );
    }
}
