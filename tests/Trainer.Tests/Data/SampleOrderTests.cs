using CsCheck;
using LongNet.Trainer.Data;

namespace LongNet.Trainer.Tests.Data;

public class SampleOrderTests
{
    [Fact]
    public void WindowAt_EveryEpoch_IsAnotherPermutationOfAllWindows() =>
        Gen.Select(Gen.Long[1, 300], Gen.Long)
            .Sample(
                (windows, seed) =>
                {
                    var order = new SampleOrder(windows, seed);
                    long[] first = Epoch(order, windows, 0),
                        second = Epoch(order, windows, 1);
                    Assert.Equal(Enumerable.Range(0, (int)windows).Select(window => (long)window), first.Order());
                    Assert.Equal(first.Order(), second.Order());
                    // Two shuffles of 20 windows are alike with a chance of 1 in 20!.
                    if (windows >= 20)
                        Assert.NotEqual(first, second);
                },
                iter: 200
            );

    [Fact]
    public void WindowAt_SameSeed_IsTheSameOrderAndAnotherSeedAnother()
    {
        Assert.Equal(Epoch(new SampleOrder(100, 7), 100, 3), Epoch(new SampleOrder(100, 7), 100, 3));
        Assert.NotEqual(Epoch(new SampleOrder(100, 7), 100, 3), Epoch(new SampleOrder(100, 8), 100, 3));
    }

    [Fact]
    public void WindowAt_ManyWindows_VisitsWithoutPattern()
    {
        long[] epoch = Epoch(new SampleOrder(10_000, 1), 10_000, 0);
        // Of a random order, neighbours lie a third of all windows apart on average (standard error 24 here).
        double distance = epoch.Zip(epoch.Skip(1), (a, b) => (double)Math.Abs(a - b)).Average();
        Assert.InRange(distance, 3200, 3470);
    }

    [Theory]
    [InlineData(8, 1, null, 1, 8)]
    [InlineData(8, 2, null, 1, 4)]
    [InlineData(8, 2, 1L, 4, 1)]
    [InlineData(8, 4, 2L, 1, 2)]
    public void BatchPartition_AnyRanks_DealOutTheBatchOnce(
        long batch,
        int dataRanks,
        long? micro,
        long microSteps,
        long microBatch
    )
    {
        BatchPartition partition = BatchPartition.Create(batch, dataRanks, micro);
        Assert.Equal((microSteps, microBatch), (partition.MicroSteps, partition.MicroBatchSize));
        long[] dealt =
        [
            .. Enumerable
                .Range(0, dataRanks)
                .SelectMany(rank =>
                    Enumerable.Range(0, (int)microSteps).SelectMany(step => partition.Sequences(rank, step))
                ),
        ];
        Assert.Equal(Enumerable.Range(0, (int)batch).Select(place => (long)place), dealt);
    }

    [Fact]
    public void BatchPartition_ThatDoesNotDivide_SaysWhatWould()
    {
        Assert.Equal(
            "training.batch_size (6) is not a multiple of the 4 data-parallel ranks: set it to 8, or "
                + "choose another parallel.data.",
            Assert.Throws<Core.UserException>(() => BatchPartition.Create(6, 4, null)).Message
        );
        Assert.Equal(
            "training.micro_batch_size (3) does not divide the 4 sequences that each of 2 data-parallel "
                + "ranks has of training.batch_size 8.",
            Assert.Throws<Core.UserException>(() => BatchPartition.Create(8, 2, 3)).Message
        );
    }

    [Theory]
    [InlineData(1001, 100, 0.2, 8, 2)]
    [InlineData(1000, 100, 0.2, 8, 1)]
    [InlineData(201, 100, 0.05, 1, 1)]
    [InlineData(101, 100, 0, 1, 0)]
    public void CorpusSplit_Windows_AreWhole(
        long tokens,
        long length,
        double fraction,
        long training,
        long validation
    ) => Assert.Equal(new CorpusSplit(length, training, validation), CorpusSplit.Create(tokens, length, fraction));

    [Fact]
    public void CorpusSplit_TooShort_NamesTheLongestThatWorks()
    {
        var error = Assert.Throws<Core.UserException>(() => CorpusSplit.Create(150, 100, 0.1));
        Assert.Equal(
            "data.path holds 150 tokens, too few for training.sequence_length 100: the longest that works "
                + "is 74, or add text.",
            error.Message
        );
        Assert.Equal(1, CorpusSplit.Create(150, 74, 0.1).TrainingWindows);
        Assert.Equal(
            "data.path holds 1 tokens, too few to train on: add text.",
            Assert.Throws<Core.UserException>(() => CorpusSplit.Create(1, 100, 0.1)).Message
        );
    }

    private static long[] Epoch(SampleOrder order, long windows, long epoch) =>
        [.. Enumerable.Range(0, (int)windows).Select(index => order.WindowAt(epoch * windows + index))];
}
