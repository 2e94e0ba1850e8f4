using LongNet.Trainer.Planning;

namespace LongNet.Trainer.Tests.Planning;

public class SizeTextTests
{
    [Theory]
    [InlineData("8192", 8192L)]
    [InlineData("8K", 8192L)]
    [InlineData("1m", 1L << 20)]
    [InlineData("1G", 1L << 30)]
    [InlineData("0", null)]
    [InlineData("1.5K", null)]
    [InlineData("K", null)]
    [InlineData("-8K", null)]
    [InlineData("9999999G", null)]
    public void Length_OfText_IsOf1024(string text, long? rows) => Assert.Equal(rows, SizeText.ParseLength(text));

    [Theory]
    [InlineData("80GiB", 80.0 * (1 << 30))]
    [InlineData("80GB", 80e9)]
    [InlineData("1.5 tib", 1.5 * (1L << 40))]
    [InlineData("80", null)]
    [InlineData("80G", null)]
    [InlineData("80B", null)]
    [InlineData("-1GB", null)]
    [InlineData("0GB", null)]
    public void Memory_OfText_NeedsAUnit(string text, double? bytes) => Assert.Equal(bytes, SizeText.ParseMemory(text));

    [Theory]
    [InlineData("4", new[] { 4 })]
    [InlineData("1,2,8", new[] { 1, 2, 8 })]
    [InlineData("1..8", new[] { 1, 2, 4, 8 })]
    [InlineData("3..14", new[] { 3, 6, 12, 14 })]
    [InlineData("8..1", null)]
    [InlineData("0", null)]
    [InlineData("1,,2", null)]
    [InlineData("many", null)]
    public void Ranks_OfText_AreListsOrPowersOfTwo(string text, int[]? ranks) =>
        Assert.Equal(ranks, SizeText.ParseRanks(text));

    [Fact]
    public void Numbers_AsText_AreReadAtAGlance()
    {
        Assert.Equal("1G", SizeText.Length(1L << 30));
        Assert.Equal("1536K", SizeText.Length(1536 << 10));
        Assert.Equal("1000", SizeText.Length(1000));
        Assert.Equal("512 B", SizeText.Memory(512));
        Assert.Equal("41.8 GiB", SizeText.Memory(41.8 * (1 << 30)));
        Assert.Equal("1.0 MiB", SizeText.Memory((1 << 20) - 1));
        Assert.Equal("12.0 us", SizeText.Time(12e-6));
        Assert.Equal("1.56 s", SizeText.Time(1.561));
        Assert.Equal("20.0 min", SizeText.Time(1200));
        Assert.Equal("4 years", SizeText.Time(4 * 365 * 86400.0));
        Assert.Equal("271 G", SizeText.Count(271e9));
        Assert.Equal("1.31 M", SizeText.Count(1.31e6));
        Assert.Equal("7", SizeText.Count(7));
    }
}
