using LongNet.Core.Model;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Tests.Platform;

public class MallocTrimPolicyTests
{
    private const long Megabyte = 1 << 20;

    [Fact]
    public void GivesBack_OnceTheProcessGrewByAStep_AndMeasuresAnew()
    {
        var policy = new MallocTrimPolicy(AllocatorSetting.Tuned, Recompute.None);
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
        foreach (var (before, after, trims) in steps)
        {
            policy.BeforeStep(before * Megabyte);
            Assert.Equal(trims, policy.ShouldTrim(after * Megabyte));
        }
    }

    [Fact]
    public void GivesBack_OfASmallModel_NotForALittle()
    {
        var policy = new MallocTrimPolicy(AllocatorSetting.Tuned, Recompute.None);
        policy.BeforeStep(100 * Megabyte);
        Assert.False(policy.ShouldTrim(101 * Megabyte));
        Assert.False(policy.ShouldTrim(101 * Megabyte + MallocTrimPolicy.LeastGrowth));
        Assert.True(policy.ShouldTrim(101 * Megabyte + MallocTrimPolicy.LeastGrowth + 1));
    }

    [Theory]
    [InlineData(nameof(AllocatorSetting.Tuned), Recompute.Full, true)]
    [InlineData(nameof(AllocatorSetting.Tuned), Recompute.Block, true)]
    [InlineData(nameof(AllocatorSetting.System), Recompute.Full, false)]
    [InlineData(nameof(AllocatorSetting.System), Recompute.None, false)]
    public void ShouldTrim_WhereBlocksAreRecomputed_IsTrueUnlessTheSystemsAllocatorIsLeftAlone(
        string allocator,
        Recompute recompute,
        bool trims
    )
    {
        var policy = new MallocTrimPolicy(Enum.Parse<AllocatorSetting>(allocator), recompute);
        foreach (long? allocated in new long?[] { 100, null, 900 * Megabyte })
        {
            policy.BeforeStep(allocated);
            Assert.Equal(trims, policy.ShouldTrim(allocated));
        }
    }

    [Fact]
    public void ShouldTrim_WhereMemoryIsUnknown_IsFalse()
    {
        var policy = new MallocTrimPolicy(AllocatorSetting.Tuned, Recompute.None);
        for (int step = 0; step < 3; step++)
        {
            policy.BeforeStep(null);
            Assert.False(policy.ShouldTrim(null));
        }
    }
}
