using System.ComponentModel;
using LongNet.Core.Native;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;

namespace LongNet.Distributed.Tests.Backends.Nccl;

/// <summary>
/// The queue of NCCL's calls over an emulated driver and NCCL, which this test compiles. The assertions are in the rank
/// worker's scenario.
/// </summary>
public class NcclQueueTests
{
    [Fact]
    public void Queue_OverTheEmulatedLibrary_LaunchesAtOnceTimesWaitsAndSplitsOnlyWhenNothingRuns()
    {
        Assert.SkipWhen(LibTorch.HasCudaDevice, "the real driver is loaded here");
        using var folder = new TemporaryFolder();
        string library = folder["libcuda.so.1"];
        Compile("tests/RankWorker/Native/emulated_nccl.c", library);
        RankTests.RunScenario(MpiKind.None, 1, "emulated-nccl", library);
    }

    private static void Compile(string source, string library)
    {
        try
        {
            using var compiler = new ProgramRun(
                "cc",
                ["-shared", "-fPIC", "-o", library, "-Wl,-soname,libcuda.so.1", source]
            );
            compiler.Wait(TimeSpan.FromMinutes(1)).AssertSuccess();
        }
        catch (Win32Exception)
        {
            Assert.Skip("there is no C compiler here");
        }
    }
}
