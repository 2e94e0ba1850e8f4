using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>
/// What a step sends is what section 2 of docs/semantics.md says, to the byte, and does not grow with the sequence.
/// </summary>
public class CommunicationVolumeTests
{
    // configs/ranks-agree.yaml, where nothing else is said.
    private const long Layers = 2,
        Channels = 64,
        Heads = 4,
        BatchSize = 4,
        Float32 = 4,
        Float64 = 8;

    private static readonly (long Segment, long Dilation)[] Schedule = [(64, 1), (128, 2), (256, 4), (512, 3)];

    // Embedding; per layer four projections and the feed-forward network with their biases and two normalizations; the
    // last normalization.
    private const long Parameters =
        256 * Channels
        + Layers * (4 * (Channels * Channels + Channels) + 2 * 4 * Channels * Channels + 5 * Channels + 4 * Channels)
        + 2 * Channels;

    [Theory]
    [InlineData(1, 2, 256)]
    [InlineData(1, 2, 512)]
    [InlineData(1, 2, 1024)]
    [InlineData(1, 4, 512)]
    [InlineData(2, 2, 512)]
    [InlineData(2, 1, 512)]
    public void Step_OnAnyMesh_SendsTheFormulasBytes(int data, int sequence, long length)
    {
        using var folder = new TemporaryFolder();
        double[] sent = Train(folder["run"], data, sequence, length);
        // All ranks' gradients once as reduce-scatter and all-gather; the number of valid targets, and the loss with
        // the peak of memory.
        long expected = AttentionBytes(data, sequence, length) + Parameters * Float32 + 3 * Float64;
        Assert.Equal([expected, expected], sent.Select(bytes => (long)bytes));
    }

    // With twice the ranks for twice the sequence, a rank has as many rows and as many kept keys as before.
    [Fact]
    public void Step_OfTwiceTheSequenceOnTwiceTheRanks_SendsAsMuchPerRank()
    {
        using var folder = new TemporaryFolder();
        string[] schedule =
        [
            "--set",
            "model.attention.segment_lengths=[64, 256]",
            "--set",
            "model.attention.dilation_rates=[1, 4]",
        ];
        double[] one = Train(folder["two"], 1, 2, 256, schedule),
            two = Train(folder["four"], 1, 4, 512, schedule);
        Assert.True(one[0] > Parameters * Float32, "nothing but gradients was sent");
        Assert.Equal(one, two);
    }

    // Rank 0's, of all sequences of a step and both directions, counted row by row.
    private static long AttentionBytes(int data, int sequence, long length)
    {
        long rows = length / sequence,
            elements = 0;
        foreach (var (segment, dilation) in Schedule)
        {
            long whole = Math.Min(segment, length);
            if (whole <= rows)
                continue;
            // Rank 0's rows begin a segment; head h keeps the rows that lie at h mod r in it.
            long kept = Enumerable
                .Range(0, (int)Heads)
                .Sum(head => Enumerable.Range(0, (int)rows).LongCount(row => row % dilation == head % dilation));
            long keysAndValues = 2 * kept * (Channels / Heads);
            // Forward the own ones, once. Backward their gradients' counterparts: what this rank says of every other
            // rank's.
            elements +=
                keysAndValues
                + Enumerable
                    .Range(1, (int)(whole / rows) - 1)
                    .Sum(peer => 2 * Kept(peer * rows, rows, dilation) * (Channels / Heads));
        }

        return Layers * (BatchSize / data) * elements * Float32;
    }

    private static long Kept(long firstRow, long rows, long dilation) =>
        Enumerable
            .Range(0, (int)Heads)
            .Sum(head =>
                Enumerable.Range(0, (int)rows).LongCount(row => (firstRow + row) % dilation == head % dilation)
            );

    private static double[] Train(string output, int data, int sequence, long length, params string[] more)
    {
        TrainingJob.RanksAgree(
            MpiKind.OpenMpi,
            data,
            sequence,
            output,
            [
                "--steps",
                "2",
                "--set",
                $"training.sequence_length={length}",
                "--set",
                "evaluation.every_steps=0",
                .. more,
            ]
        );
        return TrainingJob.Values(output, "bytes_sent");
    }
}
