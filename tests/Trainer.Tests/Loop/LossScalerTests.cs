using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Loop;

namespace LongNet.Trainer.Tests.Loop;

/// <summary>
/// The numbers are those of torch.amp.GradScaler: 65536, twice after 2000 good steps in a row, half after an overflow.
/// </summary>
public class LossScalerTests
{
    private readonly LossScaler scaler = new();

    [Fact]
    public void Succeed_TwoThousandTimesInARow_DoublesTheScale()
    {
        Succeed(1999);
        Assert.Equal(new CheckpointLossScaler(65536, 1999, 0), scaler.State);
        Succeed(1);
        Assert.Equal(new CheckpointLossScaler(131072, 0, 0), scaler.State);
        Succeed(2000);
        Assert.Equal(262144, scaler.Scale);
    }

    [Fact]
    public void Skip_HalvesTheScaleAndCountsGoodStepsAnew()
    {
        Succeed(1999);
        scaler.Skip();
        Assert.Equal(new CheckpointLossScaler(32768, 0, 1), scaler.State);
        scaler.Skip();
        Assert.Equal(new CheckpointLossScaler(16384, 0, 2), scaler.State);
        Succeed(1999);
        Assert.Equal(16384, scaler.Scale);
        Succeed(1);
        Assert.Equal(new CheckpointLossScaler(32768, 0, 2), scaler.State);
    }

    [Fact]
    public void Scale_HowManyStepsOverflowOrNot_StaysBetweenItsBounds()
    {
        for (int growth = 0; growth < 12; growth++)
            Succeed(2000);
        Assert.Equal(new CheckpointLossScaler(16777216, 0, 0), scaler.State);
        for (int halving = 0; halving < 24; halving++)
        {
            Assert.True(scaler.CanShrink);
            scaler.Skip();
        }

        Assert.Equal(1, scaler.Scale);
        Assert.False(scaler.CanShrink);
        scaler.Skip();
        Assert.Equal(new CheckpointLossScaler(1, 0, 25), scaler.State);
    }

    [Fact]
    public void Load_StateOfAnother_GoesOnAsThatOneWould()
    {
        Succeed(1500);
        scaler.Skip();
        Succeed(1200);
        var resumed = new LossScaler();
        resumed.Load(scaler.State);
        Assert.Equal(scaler.State, resumed.State);
        for (int step = 0; step < 800; step++)
            resumed.Succeed();
        Assert.Equal(new CheckpointLossScaler(65536, 0, 1), resumed.State);
    }

    [Fact]
    public void Load_AScaleAboveTheLargest_OnlyFalls()
    {
        scaler.Load(new CheckpointLossScaler(Math.Pow(2, 100), 1999, 3));
        Succeed(1);
        Assert.Equal(new CheckpointLossScaler(Math.Pow(2, 100), 0, 3), scaler.State);
        scaler.Skip();
        Assert.Equal(new CheckpointLossScaler(Math.Pow(2, 99), 0, 4), scaler.State);
    }

    private void Succeed(int steps)
    {
        for (int step = 0; step < steps; step++)
            scaler.Succeed();
    }
}
