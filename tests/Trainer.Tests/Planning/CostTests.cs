using LongNet.Core;
using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Planning;
using LongNet.Trainer.Planning.Machines;
using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Tests.Planning;

public class CostTests
{
    private static readonly Machine Desk = MachinePresets.Find("desk");

    [Fact]
    public void Parameters_OfAnyModel_AreThoseOfTheModelItself()
    {
        LongNetConfig small = PlannedConfigs.Small.Model.ToModel() with { Layers = 3 };
        foreach (
            LongNetConfig config in new[]
            {
                small,
                small with
                {
                    TieEmbeddings = false,
                },
                small with
                {
                    SubLayerNorm = true,
                },
                small with
                {
                    RelativePositionBias = new RelativePositionBuckets(8, 16, false),
                },
            }
        )
        {
            using var model = new LongNetLanguageModel(config, seed: 1);
            var expected = model
                .named_parameters()
                .ToLookup(
                    entry => entry.name.StartsWith("layers.", StringComparison.Ordinal),
                    entry => entry.parameter.NumberOfElements
                );
            Assert.Equal(
                new ParameterCounts(expected[true].Sum() / 3, expected[false].Sum(), 3),
                ParameterCounts.Of(config)
            );
        }
    }

    [Fact]
    public void Operations_OfASmallModel_AreThoseCountedByHand()
    {
        var run = RunShape.Create(PlannedConfigs.Small, 1);
        Operations operations = Operations.Of(run, new AttentionCost(run));
        // Four products of 8 × 8 over 8 rows; two of 8 × 16; one of 8 × 256. Attention: two segments of four rows in
        // two heads see 1 + 2 + 3 + 4 keys, and each head keeps four rows of the long one: 60 pairs of 4 channels, in
        // two products.
        var forward = new FlopsByPart(4 * 2 * 8 * 8 * 8, 60 * 4 * 2 * 2, 2 * 2 * 8 * 8 * 16, 2 * 8 * 8 * 256);
        Assert.Equal(forward, operations.Forward);
        Assert.Equal(
            new FlopsByPart(
                2 * forward.Projections,
                2.5 * forward.Attention,
                2 * forward.FeedForward,
                2 * forward.Output
            ),
            operations.Backward
        );
        Assert.Equal(default, operations.Recomputed);
    }

    [Fact]
    public void Operations_Recomputed_AreWhatBackwardRunsAgain()
    {
        // Queries, keys and values twice, the mixed heads and the feed-forward network once.
        Assert.Equal(
            new FlopsByPart((2 * 3 + 1) * 2 * 8 * 8 * 8, 0, 2 * 2 * 8 * 8 * 16, 0),
            Recomputed(Recompute.Block)
        );
        Assert.Equal(
            new FlopsByPart((2 * 3 + 1) * 2 * 8 * 8 * 8, 960, 2 * 2 * 8 * 8 * 16, 0),
            Recomputed(Recompute.Full)
        );

        static FlopsByPart Recomputed(Recompute recompute)
        {
            var run = RunShape.Create(PlannedConfigs.Small.With(recompute), 1);
            return Operations.Of(run, new AttentionCost(run)).Recomputed;
        }
    }

    [Theory]
    [InlineData(64, 1, HeadOffsets.Interleaved)]
    [InlineData(61, 1, HeadOffsets.Blocked)]
    [InlineData(64, 2, HeadOffsets.Interleaved)]
    [InlineData(64, 8, HeadOffsets.Blocked)]
    [InlineData(96, 12, HeadOffsets.Interleaved)]
    public void Attention_OfAnySchedule_HasThePairsThatAreCountedOneByOne(int length, int ranks, HeadOffsets offsets)
    {
        const int Heads = 5;
        (int Length, int Dilation)[] branches =
            ranks == 1 ? [(8, 1), (24, 3), (1000, 7)] : [(8, 1), (16, 3), (32, 2), (1000, 5)];
        RunConfig config = PlannedConfigs.Small with
        {
            Model = PlannedConfigs.Small.Model with
            {
                DModel = 10,
                Heads = Heads,
                Attention = new AttentionConfig
                {
                    SegmentLengths = [.. branches.Select(b => (long)b.Length)],
                    DilationRates = [.. branches.Select(b => (long)b.Dilation)],
                    HeadOffsets = offsets,
                },
            },
            Training = PlannedConfigs.Small.Training with { SequenceLength = length },
        };
        var cost = new AttentionCost(RunShape.Create(config, ranks));

        var ofRank = new long[ranks, branches.Length];
        for (int b = 0; b < branches.Length; b++)
        {
            int w = Math.Min(branches[b].Length, length),
                r = branches[b].Dilation;
            for (int head = 0; head < Heads; head++)
            {
                int offset = offsets == HeadOffsets.Interleaved ? head % r : head / ((Heads + r - 1) / r);
                for (int query = 0; query < length; query++)
                {
                    for (int key = 0; key <= query; key++)
                    {
                        if (query / w == key / w && query % w % r == offset && key % w % r == offset)
                            ofRank[query / (length / ranks), b]++;
                    }
                }
            }
        }

        int[] all = [.. Enumerable.Range(0, ranks)],
            every = [.. Enumerable.Range(0, branches.Length)];
        Assert.Equal(
            every.Select(b => (double)all.Sum(rank => ofRank[rank, b])),
            cost.Branches.Select(branch => branch.Pairs)
        );
        Assert.Equal(
            all.Max(rank => every.Sum(b => ofRank[rank, b])),
            cost.Branches.Sum(branch => branch.SlowestPairs)
        );
    }

    [Fact]
    public void Memory_OfRecomputedBlocks_IsTheirInputsAlone()
    {
        RunConfig config = Sized(Recompute.Full);
        MemoryCost full = Memory(config),
            block = Memory(config.With(Recompute.Block)),
            none = Memory(config.With(Recompute.None));
        // 4 blocks of 1024 rows of 64 channels in float32; the attended rows and their log-sum-exp in 2 heads; 8
        // tensors of residual rows, 2 of 256 hidden channels, and 2 numbers per row of both norms.
        const double Rows = 1024 * 4,
            Blocks = 4;
        Assert.Equal(Blocks * Rows * 64, full.Activations);
        Assert.Equal(Blocks * Rows * (2 * 64 + 2), block.Activations);
        Assert.Equal(Blocks * Rows * (8 * 64 + 2 * 256 + 2 + 4), none.Activations);
        Assert.True(
            full.Total < block.Total && block.Total < none.Total,
            $"{full.Total}, {block.Total} and {none.Total} bytes"
        );
        // In 16 bits half, but for the matrices that autograd keeps rounded.
        Assert.Equal(
            full.Activations / 2,
            Memory(config with { Precision = new PrecisionConfig { Compute = ComputePrecision.BFloat16 } }).Activations
        );
        Assert.Equal(
            full.Activations / 2,
            Memory(config with { Memory = config.Memory with { Offload = Offload.Disk } }).Activations
        );
    }

    [Fact]
    public void Memory_OfParameters_IsSharedOutWhereTheOptimizerIs()
    {
        RunConfig config = Sized(Recompute.None) with { Checkpoint = new CheckpointConfig { EverySteps = 1 } };
        double parameters = 4.0 * ParameterCounts.Of(config.Model.ToModel()).Total;
        MemoryCost alone = Memory(config, 4),
            shared = Memory(config with { Parallel = new ParallelConfig { ShardOptimizer = true } }, 4);
        Assert.Equal(
            (parameters, parameters, 2 * parameters, 3 * parameters),
            (alone.Weights, alone.Gradients, alone.Optimizer, alone.CheckpointCopy)
        );
        Assert.Equal(
            (parameters, parameters, parameters / 2, 1.5 * parameters),
            (shared.Weights, shared.Gradients, shared.Optimizer, shared.CheckpointCopy)
        );
        Assert.Equal(0, Memory(Sized(Recompute.None)).CheckpointCopy);
    }

    [Fact]
    public void Memory_OfGatheredKeys_IsThatOfAllRanksOfTheSegment()
    {
        RunConfig config = Sized(Recompute.None);
        // Of the second branch every other of 1024 rows, keys and values of 64 channels, in 4 blocks.
        Assert.Equal(0, Memory(config, 1).Gathered);
        Assert.Equal(4 * 2 * 512 * 64 * 4, Memory(config, 2).Gathered);
        Assert.Equal(0, Memory(config.With(Recompute.Full), 2).Gathered);
    }

    [Fact]
    public void Step_OfThePresets_IsBoundByWhatIsShort()
    {
        RunConfig config = Sized(Recompute.None);
        Assert.Equal(Resource.Compute, Time(Desk with { MatrixFloat32 = 1, AttentionFloat32 = 1 }).Bound);
        Assert.Equal(Resource.MemoryBandwidth, Time(Desk with { MemoryBandwidth = 1 }).Bound);
        Assert.Equal(Resource.Network, Time(Desk with { CollectiveLatency = 100 }).Bound);
        Assert.Equal(Resource.Calls, Time(Desk with { CallSeconds = 100 }).Bound);

        StepTime Time(Machine machine) => Prediction.Of(config, 2, machine).Time;
    }

    [Fact]
    public void Machine_WhoseProcessorsAreShared_GivesEveryRankItsShare()
    {
        Machine two = Desk.For(2, null),
            four = Desk.For(4, null),
            bound = Desk.For(1, threads: 1);
        Assert.Equal(
            (Desk.MatrixFloat32 / 2, Desk.MemoryPerRank / 2, 2),
            (two.MatrixFloat32, two.MemoryPerRank, two.RanksPerHost)
        );
        // More ranks than processors are on further machines.
        Assert.Equal(
            (two.MatrixFloat32, two.MemoryPerRank, 2),
            (four.MatrixFloat32, four.MemoryPerRank, four.RanksPerHost)
        );
        Assert.Equal(Desk.MatrixFloat32 / 2, bound.MatrixFloat32);
        Assert.Equal(Desk.MemoryPerRank, bound.MemoryPerRank);
        Machine gpu = MachinePresets.Find("h100-80gb");
        Assert.Equal(gpu, gpu.For(64, null));
    }

    [Fact]
    public void Search_FindsWhatFits_AndNothingLongerDoes()
    {
        RunConfig config = Sized(Recompute.Full);
        const double Memory = 1L << 30;
        Prediction longest = PlanSearch.LongestSequence(config, 2, Desk, Memory)!;
        Assert.InRange(longest.Memory.Total, 0, Memory);
        // Powers of two and one and a half times these are tried.
        long length = longest.Run.SequenceLength,
            next = long.IsPow2(length) ? length * 3 / 2 : length * 4 / 3;
        Assert.True(Prediction.Of(Prediction.WithLength(config, next), 2, Desk).Memory.Total > Memory);

        Prediction fewest = PlanSearch.FewestRanks(Prediction.WithLength(config, 4 * length), Desk, Memory)!;
        Assert.InRange(fewest.Memory.Total, 0, Memory);
        Assert.True(Prediction.Of(fewest.Run.Config, fewest.Run.Ranks / 2, Desk).Memory.Total > Memory);
        Assert.Null(PlanSearch.LongestSequence(config, 1, Desk, 1000));
        Assert.Null(PlanSearch.FewestRanks(config, Desk, 1000));
    }

    [Fact]
    public void Plan_OfAFloat16Model_RefusesTheDecayThatTrainingWould()
    {
        RunConfig config = Sized(Recompute.None);
        config = config with
        {
            Model = config.Model with { Positions = PositionEncoding.XPos },
            Precision = new PrecisionConfig { Compute = ComputePrecision.Float16 },
        };
        Assert.NotNull(RunShape.Create(config, 1));
        Assert.Equal(
            "xPos over blocks of 8192 rows (the least common multiple of the segment lengths, or the whole "
                + "sequence) needs scales up to e^10, more than Float16 holds; "
                + "blocks of at most 3269 rows work: shorten the longest segment or choose segment lengths "
                + "that divide it.",
            Assert
                .Throws<UserException>(() =>
                    RunShape.Create(
                        config with
                        {
                            Model = config.Model with
                            {
                                Attention = config.Model.Attention with { SegmentLengths = [1024, 8192] },
                            },
                            Training = config.Training with { SequenceLength = 8192 },
                        },
                        1
                    )
                )
                .Message
        );
    }

    private static MemoryCost Memory(RunConfig config, int ranks = 1) => Prediction.Of(config, ranks, Desk).Memory;

    private static RunConfig Sized(Recompute recompute) =>
        PlannedConfigs.Small.With(recompute) with
        {
            Model = PlannedConfigs.Small.Model with
            {
                Layers = 4,
                DModel = 64,
                FeedForward = 256,
                Attention = new AttentionConfig { SegmentLengths = [256, 1024], DilationRates = [1, 2] },
            },
            Training = PlannedConfigs.Small.Training with { SequenceLength = 1024 },
        };
}
