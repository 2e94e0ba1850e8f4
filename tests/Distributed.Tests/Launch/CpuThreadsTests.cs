using LongNet.Core.Native;
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

    [Fact]
    public void Processors_OfThisMachine_AreNoMoreThanItHas()
    {
        var (visible, machine) = CpuThreads.Processors();
        int online = ProcessorList.Parse(ProcFile.Text("/sys/devices/system/cpu/online"))!.Length;
        Assert.InRange(machine, 1, online);
        Assert.InRange(visible, Environment.ProcessorCount, online);
    }
}
