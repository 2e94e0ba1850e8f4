using LongNet.Core.Model;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Loop;

namespace LongNet.Trainer.Tests.Loop;

public class MallocTrimPolicyTests
{
    private const long Megabyte = 1 << 20;

    [Fact]
    public void GivesBack_OnceTheProcessGrewByAStep_AndMeasuresAnew()
    {
        var freed = new MallocTrimPolicy(AllocatorSetting.Tuned, Recompute.None);
        // A step takes 300 MB at first, and 100 MB of what is fresh later.
        (long Before, long After, bool GivesBack)[] steps =
        [
            (100, 400, false),
            (400, 550, false),
            (550, 700, false),
            (700, 701, true),
            (150, 250, false),
            (250, 350, false),
            (350, 351, true),
            (120, 500, false),
            (500, 501, false),
        ];
        foreach (var (before, after, givesBack) in steps)
        {
            freed.BeforeStep(before * Megabyte);
            Assert.Equal(givesBack, freed.ShouldTrim(after * Megabyte));
        }
    }

    [Fact]
    public void GivesBack_OfASmallModel_NotForALittle()
    {
        var freed = new MallocTrimPolicy(AllocatorSetting.Tuned, Recompute.None);
        freed.BeforeStep(100 * Megabyte);
        Assert.False(freed.ShouldTrim(101 * Megabyte));
        Assert.False(freed.ShouldTrim(101 * Megabyte + MallocTrimPolicy.LeastGrowth));
        Assert.True(freed.ShouldTrim(101 * Megabyte + MallocTrimPolicy.LeastGrowth + 1));
    }

    [Theory]
    [InlineData(AllocatorSetting.Tuned, Recompute.Full, true)]
    [InlineData(AllocatorSetting.Tuned, Recompute.Block, true)]
    [InlineData(AllocatorSetting.System, Recompute.Full, false)]
    [InlineData(AllocatorSetting.System, Recompute.None, false)]
    public void GivesBack_WhereBlocksAreRecomputed_AfterEachStepUnlessTheSystemsAllocatorIsLeftAlone(
        AllocatorSetting allocator,
        Recompute recompute,
        bool givesBack
    )
    {
        var freed = new MallocTrimPolicy(allocator, recompute);
        foreach (long? allocated in new long?[] { 100, null, 900 * Megabyte })
        {
            freed.BeforeStep(allocated);
            Assert.Equal(givesBack, freed.ShouldTrim(allocated));
        }
    }

    [Fact]
    public void GivesBack_WhereTheSystemDoesNotTell_Never()
    {
        var freed = new MallocTrimPolicy(AllocatorSetting.Tuned, Recompute.None);
        for (int step = 0; step < 3; step++)
        {
            freed.BeforeStep(null);
            Assert.False(freed.ShouldTrim(null));
        }
    }
}
