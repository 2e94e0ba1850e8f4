using LongNet.Distributed.Launch;

namespace LongNet.Distributed.Tests.Launch;

public class CpuThreadsTests
{
    [Theory]
    [InlineData(16, 16, 1, 16)]
    [InlineData(16, 16, 4, 4)]
    [InlineData(16, 16, 5, 3)]
    [InlineData(2, 2, 4, 1)]
    // The launcher bound the rank to two of the machine's processors.
    [InlineData(2, 16, 8, 2)]
    [InlineData(2, 16, 4, 2)]
    // Four ranks are bound to each socket of sixteen.
    [InlineData(16, 32, 8, 4)]
    public void PerRank_RanksOfAMachine_ShareItsProcessors(int visible, int machine, int localRanks, int expected) =>
        Assert.Equal(expected, CpuThreads.PerRank(visible, machine, localRanks));

    [Theory]
    [InlineData("0-3,8,10-11\n", 7)]
    [InlineData("5", 1)]
    [InlineData("", null)]
    [InlineData("3-1", null)]
    [InlineData("all", null)]
    public void CountOf_KernelsList_CountsProcessors(string list, int? expected) =>
        Assert.Equal(expected, CpuThreads.CountOf(list));

    [Fact]
    public void Processors_OfThisMachine_AreNoMoreThanItHas()
    {
        var (visible, machine) = CpuThreads.Processors();
        int online = CpuThreads.CountOf(File.ReadAllText("/sys/devices/system/cpu/online"))!.Value;
        Assert.InRange(machine, 1, online);
        Assert.InRange(visible, Environment.ProcessorCount, online);
    }
}
