using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Distributed.Tests;

/// <summary>A rank that goes takes the others along, and says why.</summary>
public class DepartureTests
{
    // Starting three ranks takes seconds on a busy machine; without the abort the others would wait for ever.
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(30);

    [Theory]
    [InlineData(MpiKind.OpenMpi)]
    [InlineData(MpiKind.Mpich)]
    public void UnhandledException_OnOneRank_EndsTheJobWithItsMessage(MpiKind kind)
    {
        ProgramResult result = Depart(kind, "throw");
        Assert.Equal(1, result.ExitCode);
        Assert.Contains("rank 1: System.InvalidOperationException: the GPU fell off the bus", result.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(MpiKind.OpenMpi)]
    [InlineData(MpiKind.Mpich)]
    public void Exit_OfOneRank_EndsTheJob(MpiKind kind)
    {
        ProgramResult result = Depart(kind, "leave");
        Assert.Equal(DistributedRuntime.LeftWithoutFinishing, result.ExitCode);
        Assert.Contains("rank 1: left without finishing; ending the job with code 86.", result.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(MpiKind.OpenMpi)]
    [InlineData(MpiKind.Mpich)]
    public void Kill_OfOneRank_EndsTheJob(MpiKind kind) => Assert.NotEqual(0, Depart(kind, "die").ExitCode);

    private static ProgramResult Depart(MpiKind kind, string how)
    {
        ProgramResult result = RankTests.Launcher(kind).Run(3, Repository.RankWorker, [how, "1"]);
        Assert.True(result.Elapsed < Soon, $"the job took {result.Elapsed}");
        return result;
    }
}
