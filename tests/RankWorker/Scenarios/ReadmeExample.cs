using LongNet.Core.Attention;
using LongNet.Core.Numerics;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.Distributed.SequenceParallel;
using Xunit;
using static TorchSharp.torch;

namespace LongNet.RankWorker.Scenarios;

/// <summary>The documentation's example of a sharded sequence; it starts the runtime itself.</summary>
internal static class ReadmeExample
{
    public static void Run()
    {
        using var scope = NewDisposeScope();
        using var runtime = DistributedRuntime.Start();
        using var mesh = new DeviceMesh(runtime.World, data: 1, sequence: runtime.World.Size);
        using var sharding = new AllGatherSequenceParallel(mesh.Sequence);
        using var attention = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = 64,
                Heads = 4,
                Branches = [new(SegmentLength: 32, Dilation: 1), new(64, 2), new(128, 4)],
                Causal = true,
                Positions = PositionEncoding.XPos,
            },
            sharding
        );

        long tokensPerRank = 128 / mesh.SequenceSize;
        Tensor rows = rand(2, tokensPerRank, 64); // this rank's tokens of the sequence
        Tensor attended = attention.forward(rows); // collective: every rank of mesh.Sequence calls it

        Assert.Equal([2, tokensPerRank, 64], attended.shape);
        BackwardPass.Run(attended.sum());
        Assert.All(attention.parameters(), parameter => Assert.True(parameter.grad!.isfinite().all().item<bool>()));
    }
}
