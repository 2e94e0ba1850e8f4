using System.Collections.Concurrent;
using LongNet.Core.Serialization;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using static TorchSharp.torch;

namespace LongNet.Distributed.Tests;

public class FastKernelTests
{
    // Without MklVectorMath.Start one of a hundred differs where processes wait for a processor, so that 400 show it 98
    // times in 100.
    [Fact, Trait("Category", "slow")]
    public void FirstVectorMath_OfManyProcessesAtOnce_IsThatOfEveryCall()
    {
        const int AtOnce = 3;
        var outputs = new ConcurrentBag<string>();
        Parallel.For(0, 400, new() { MaxDegreeOfParallelism = AtOnce * Environment.ProcessorCount }, _ =>
            outputs.Add(RankTests.RunScenario(MpiKind.None, 1, "first-vector-math").Output)
        );
        Assert.Equal(400, outputs.Count);
        Assert.All(outputs, output => Assert.Equal("0 of 4096 differ\n", output));
    }

    [Fact]
    public void MklOnAmdAndTunedAllocator_ChangeResultsByRoundingOnly()
    {
        using var folder = new TemporaryFolder();
        ProgramResult off = RankTests.RunScenario(MpiKind.None, 1, "fast-kernels", "off", folder["off"]);
        ProgramResult on = RankTests.RunScenario(MpiKind.None, 1, "fast-kernels", "on", folder["on"]);
        string processor = File.ReadAllText("/proc/cpuinfo");
        bool isAmd =
            processor.Contains("AuthenticAMD", StringComparison.Ordinal)
            && processor.Contains(" avx2 ", StringComparison.Ordinal);
        Assert.Equal("applied False, memory kept False\n", off.Output);
        Assert.Equal($"applied {isAmd}, memory kept True\n", on.Output);

        using SafetensorsReader expected = SafetensorsReader.Open(folder["off"]),
            actual = SafetensorsReader.Open(folder["on"]);
        Assert.Equal(15, expected.Names.Count);
        foreach (string name in expected.Names)
        {
            using var scope = NewDisposeScope();
            // Rounding of sums of 500 terms in another order; bfloat16 results may round to the neighbour.
            double tolerance = expected.Type(name) switch
            {
                ScalarType.Float64 => 1e-13,
                ScalarType.Float32 => 2e-6,
                _ => 1e-2,
            };
            Compare.AssertClose(actual.Read(name), expected.Read(name), tolerance, name);
        }
    }
}
