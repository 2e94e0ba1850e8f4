using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.DataParallel;
using LongNet.Distributed.Lifetime;
using LongNet.Distributed.SequenceParallel;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace LongNet.RankWorker.Scenarios;

/// <summary>Loss, gradient norm and every parameter's gradient of a model on a mesh equal those of one rank.</summary>
internal sealed class ModelGradients(Device device)
{
    private const long Batch = 4,
        Length = 96;

    /// <param name="runtime">The ranks.</param>
    /// <param name="arguments">
    /// Sizes of the data and the sequence axis; "--device": some of it, on a device whose tensors travel through host
    /// memory.
    /// </param>
    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        runtime.DeviceTransport = DeviceTransport.Host;
        using var mesh = new DeviceMesh(runtime.World, int.Parse(arguments[0]), int.Parse(arguments[1]));
        Device device = ScenarioDevice.Of(runtime.Environment, arguments);
        var scenario = new ModelGradients(device);
        if (device.type == DeviceType.CPU)
            scenario.Check(mesh);
        else
            scenario.CheckOnDevice(mesh);
    }

    private void CheckOnDevice(DeviceMesh mesh)
    {
        // One case: the emulated device takes seconds for what the CPU does in milliseconds.
        LongNetConfig config = Config(tied: true, HeadOffsets.Interleaved, dropout: 0) with { Layers = 1 };
        Compare(mesh, config, float32, 1e-5, new ModelExecution());
    }

    private void Check(DeviceMesh mesh)
    {
        Assert.Equal(mesh.World.Rank, mesh.DataRank * mesh.SequenceSize + mesh.SequenceRank);
        Assert.Equal(mesh.SequenceRank, mesh.Sequence.Rank);
        Assert.Equal(mesh.DataRank, mesh.Data.Rank);
        foreach (bool tied in new[] { true, false })
        {
            foreach (HeadOffsets offsets in Enum.GetValues<HeadOffsets>())
            {
                foreach (double dropout in new[] { 0, 0.3 })
                {
                    LongNetConfig config = Config(tied, offsets, dropout) with
                    {
                        Positions = tied ? PositionEncoding.XPos : PositionEncoding.Rope,
                        SubLayerNorm = tied == (dropout == 0),
                        RelativePositionBias =
                            offsets == HeadOffsets.Blocked
                                ? new RelativePositionBuckets(16, 40, Bidirectional: false)
                                : null,
                    };
                    // Rounding of sums of up to 384 rows' gradients in another order; the law of the project.
                    Compare(mesh, config, float64, 1e-12, new ModelExecution());
                    Compare(mesh, config, float32, 1e-5, new ModelExecution());
                    // With tiles that divide nothing, and attention computed twice or not; one rank keeps everything.
                    Compare(
                        mesh,
                        config,
                        float64,
                        1e-12,
                        new ModelExecution
                        {
                            Recompute = dropout > 0 ? Recompute.Full : Recompute.Block,
                            TileRows = 7,
                            LossRows = 11,
                        }
                    );
                }
            }
        }
    }

    private static LongNetConfig Config(bool tied, HeadOffsets offsets, double dropout) =>
        new()
        {
            Layers = 2,
            DModel = 128,
            Heads = 4,
            FeedForward = 64,
            Vocabulary = 256,
            // With 4 ranks of 24 rows the branches span 1, 1, 2 and 4 of them; 3 and 5 divide neither heads nor
            // segments.
            Schedule = new SegmentSchedule(new Branch(12, 1), new Branch(24, 3), new Branch(48, 2), new Branch(96, 5)),
            HeadOffsets = offsets,
            Dropout = dropout,
            TieEmbeddings = tied,
        };

    private void Compare(
        DeviceMesh mesh,
        LongNetConfig config,
        ScalarType dtype,
        double tolerance,
        ModelExecution execution
    )
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(3);
        Tensor tokens = randint(0, config.Vocabulary, [Batch, Length], dtype: int64, generator: generator);
        Tensor targets = randint(0, config.Vocabulary, [Batch, Length], dtype: int64, generator: generator);
        // The last quarter of every sequence, and all of the last, has no loss: some ranks have no valid target at all.
        targets.narrow(1, Length * 3 / 4, Length / 4).fill_(LongNetLanguageModel.IgnoredTarget);
        targets[Batch - 1].fill_(LongNetLanguageModel.IgnoredTarget);
        long valid = targets.ne(LongNetLanguageModel.IgnoredTarget).sum().item<long>();
        RandomStream stream = new RandomStream(5).Derive("dropout");

        using var alone = new LongNetLanguageModel(config, seed: 11);
        var (expectedLoss, expectedNorm, expected) = Gradients(
            alone,
            tokens,
            targets,
            [0, 1, 2, 3],
            SequenceShard.Complete(Length),
            null
        );

        SequenceShard shard = AllGatherSequenceParallel.LayoutOf(Length, mesh.SequenceSize).ShardOf(mesh.SequenceRank);
        long sequences = Batch / mesh.DataSize,
            firstSequence = sequences * mesh.DataRank;
        using var sharding = new AllGatherSequenceParallel(mesh.Sequence);
        using var sharded = new LongNetLanguageModel(config, seed: 11, sharding, execution);
        var (loss, norm, actual) = Gradients(
            sharded,
            Own(tokens),
            Own(targets),
            [.. Enumerable.Range(0, (int)sequences).Select(s => firstSequence + s)],
            shard,
            mesh.World
        );

        string what =
            $"mesh {mesh.DataSize}x{mesh.SequenceSize}, {dtype}, tied {config.TieEmbeddings}, "
            + $"{config.HeadOffsets}, dropout {config.Dropout}, sub-LN {config.SubLayerNorm}, recompute "
            + $"{execution.Recompute}";
        TestKit.Compare.AssertClose([loss], [expectedLoss], tolerance, $"loss: {what}");
        TestKit.Compare.AssertClose([norm], [expectedNorm], tolerance, $"gradient norm: {what}");
        Assert.Equal(expected.Count, actual.Count);
        Assert.True(expected.Count >= 15 * config.Layers, "a block has at least 15 parameters");
        Assert.Equal(
            config.SubLayerNorm ? 4 * config.Layers : 0,
            expected.Keys.Count(name =>
                name.Contains("inner_attn_ln", StringComparison.Ordinal)
                || name.Contains("ffn_layernorm", StringComparison.Ordinal)
            )
        );
        foreach (var (name, gradient) in expected)
        {
            // The bias of keys moves all logits of a row alike where nothing is rotated, so parts of it are rounding:
            // such gradients count as large as a thousandth of the whole.
            TestKit.Compare.AssertClose(
                actual[name],
                gradient,
                tolerance,
                $"gradient of {name}: {what}",
                floor: 1e-3 * expectedNorm
            );
        }

        Tensor Own(Tensor all) =>
            all.narrow(0, firstSequence, sequences).narrow(1, shard.Range.First, shard.Length).contiguous();

        (double Loss, double Norm, Dictionary<string, Tensor> Gradients) Gradients(
            LongNetLanguageModel model,
            Tensor tokens,
            Tensor targets,
            long[] sequences,
            SequenceShard shard,
            ProcessGroup? world
        )
        {
            model.to(dtype);
            model.to(device);
            model.train();
            var named = model.named_parameters().Select(entry => (entry.name, entry.parameter)).ToArray();
            using ProcessGroup alone = ProcessGroup.Solo("alone");
            using var buffer = new GradientBuffer(named, world ?? alone);
            Tensor loss = model
                .LossSum(tokens.to(device), targets.to(device), new DropoutContext(stream, sequences, shard))
                .div(valid);
            BackwardPass.Run(loss);
            Tensor sum = loss.detach().to(float64).reshape(1).clone();
            world?.AllReduce(sum);
            buffer.FinishReduce();

            double norm = buffer.UnscaleAndClip(0);
            return (
                sum.item<double>(),
                norm,
                named.Select((entry, p) => (entry.name, buffer.Views[p].clone())).ToDictionary()
            );
        }
    }
}
