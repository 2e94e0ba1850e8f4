using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using LongNet.Core.Tests.Cuda;
using LongNet.Core.Tests.Model;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

/// <summary>
/// The law of sequence parallelism without processes: output and gradients of a shard are the tokens that one rank
/// computes, whatever positions the ranks hold.
/// </summary>
public class ShardedSegmentTests
{
    private const long Batch = 2,
        Heads = 4,
        HeadDim = 8,
        Length = 96;

    // float64 rounding of sums of some hundred terms in another order.
    private const double Tolerance = 1e-12;

    private static readonly Dictionary<string, SequenceLayout> Layouts = new()
    {
        ["2 ranks"] = SequenceLayout.Contiguous(Length, 2),
        ["4 ranks"] = SequenceLayout.Contiguous(Length, 4),
        ["2 ranks, the later positions first"] = Of((48, 48), (0, 48)),
        ["4 ranks, no order"] = Of((48, 24), (0, 24), (72, 24), (24, 24)),
        ["3 ranks of different length"] = Of((0, 24), (24, 48), (72, 24)),
    };

    public static TheoryData<string, bool> Cases =>
        [.. from layout in Layouts.Keys from causal in new[] { false, true } select (layout, causal)];

    [Theory]
    [MemberData(nameof(Cases))]
    public void Attend_ForwardAndBackward_EqualOneRank(string name, bool causal)
    {
        // Local, sharded over some ranks, sharded over all with a dilation that divides nothing, and above the shard.
        var branches = new SegmentSchedule(
            new Branch(12, 1),
            new Branch(96, 2),
            new Branch(200, 5),
            new Branch(96, 31)
        );
        var buckets = new RelativePositionBuckets(12, 20, Bidirectional: !causal);
        foreach (HeadOffsets offsets in Enum.GetValues<HeadOffsets>())
        {
            foreach (MixingGradient mixing in Enum.GetValues<MixingGradient>())
            {
                var pattern = new AttentionPattern(branches, causal, offsets, mixing);
                AssertEqualsOneRank(name, pattern, lengths: null, buckets: null);
                AssertEqualsOneRank(name, pattern, [67, 53], buckets);
                // Most ranks have no token of the second sequence.
                AssertEqualsOneRank(name, pattern, [96, 3], buckets: null);
            }
        }
    }

    [Theory]
    [InlineData("2 ranks")]
    [InlineData("4 ranks")]
    [InlineData("4 ranks, no order")]
    public void Attend_SegmentOfHalfTheSequence_EqualsOneRank(string name)
    {
        var branches = new SegmentSchedule(new Branch(24, 3), new Branch(48, 2));
        AssertEqualsOneRank(name, new AttentionPattern(branches, Causal: true), lengths: null, buckets: null);
    }

    // As on a GPU: all local blocks, then the gathered ones, then one merge; and one sum of all gradients.
    [Theory]
    [MemberData(nameof(Cases))]
    public void Attend_BlocksCombinedAtOnce_EqualsOneRank(string name, bool causal)
    {
        var branches = new SegmentSchedule(new Branch(12, 1), new Branch(96, 2), new Branch(200, 5));
        foreach (MixingGradient mixing in Enum.GetValues<MixingGradient>())
        {
            var pattern = new AttentionPattern(branches, causal, HeadOffsets.Interleaved, mixing);
            AssertEqualsOneRank(name, pattern, lengths: null, buckets: null, new TensorBlockCombiner());
            AssertEqualsOneRank(name, pattern, [67, 53], buckets: null, new TensorBlockCombiner());
        }
    }

    // Gradients that are summed in the compute type, beside those of keys that other ranks' queries add to in float32.
    [Theory]
    [InlineData(ScalarType.BFloat16, false)]
    [InlineData(ScalarType.BFloat16, true)]
    [InlineData(ScalarType.Float32, false)]
    [InlineData(ScalarType.Float32, true)]
    public void Attend_BlocksCombinedByType_EqualsOneRank(ScalarType type, bool withKernels)
    {
        BlockCombiner combiner = withKernels
            ? new KernelBlockCombiner(EmulatedKernels.Get())
            : new TensorBlockCombiner();
        var branches = new SegmentSchedule(new Branch(12, 1), new Branch(96, 2), new Branch(200, 5));
        foreach (bool causal in new[] { true, false })
            AssertEqualsOneRank(
                "4 ranks, no order",
                new AttentionPattern(branches, causal),
                lengths: null,
                buckets: null,
                combiner,
                type
            );
    }

    // Rotary positions, dropout and recomputation too are decided by position.
    [Theory]
    [InlineData("2 ranks", Recompute.None)]
    [InlineData("2 ranks, the later positions first", Recompute.Block)]
    [InlineData("4 ranks, no order", Recompute.Full)]
    public void LossSum_OfAModel_EqualsOneRank(string name, Recompute recompute)
    {
        using var scope = NewDisposeScope();
        LongNetConfig config = TinyModel.Config with
        {
            Dropout = 0.3,
            Schedule = new SegmentSchedule(new Branch(8, 1), new Branch(Length, 3)),
        };
        using var generator = new Generator(3);
        Tensor tokens = randint(0, 256, [Batch, Length], dtype: int64, generator: generator),
            targets = tokens.roll(-1, 1);
        Tensor[] expected = Run(0, UnshardedSequence.Instance);
        Tensor[][] ranks = InProcessSequence.Run(Layouts[name], Run);
        for (int i = 0; i < expected.Length; i++)
        {
            Tensor sum = ranks.Select(rank => rank[i]).Aggregate((all, rank) => all + rank);
            // Key biases move all logits of a query alike, so their gradients are next to nothing.
            Compare.AssertClose(sum, expected[i], Tolerance, $"{name}, tensor {i}", floor: 1);
        }

        // The loss, then every parameter's gradient.
        Tensor[] Run(int rank, ISequenceSharding sharding)
        {
            var execution = new ModelExecution { Recompute = recompute, TileRows = 7 };
            using var model = new LongNetLanguageModel(config, seed: 1, sharding, execution);
            model.to(float64);
            SequenceShard shard = sharding.ShardOf(Length);
            Tensor rows = tensor(shard.Positions());
            Tensor loss = model.LossSum(
                tokens.index_select(1, rows),
                targets.index_select(1, rows),
                new DropoutContext(new RandomStream(5), [0, 1], shard)
            );
            BackwardPass.Run(loss);
            return [loss.detach(), .. model.parameters().Select(parameter => parameter.grad!.clone())];
        }
    }

    private static void AssertEqualsOneRank(
        string name,
        AttentionPattern pattern,
        long[]? lengths,
        RelativePositionBuckets? buckets,
        BlockCombiner? combiner = null,
        ScalarType type = ScalarType.Float64
    )
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(17);
        Tensor[] inputs =
        [
            .. Enumerable
                .Range(0, 4)
                .Select(_ => randn([Batch, Length, Heads, HeadDim], dtype: float64, generator: generator)),
        ];
        Tensor biases = randn([buckets?.Count ?? 2, Heads], dtype: float64, generator: generator);
        SequenceLayout layout = Layouts[name];
        Tensor[] expected = Run(0, UnshardedSequence.Instance);
        // Every rank's thread has the combiner of this one; the one rank has none.
        BlockCombiner.Substitute.Value = combiner;
        Tensor[][] ranks = InProcessSequence.Run(layout, Run);
        BlockCombiner.Substitute.Value = null;
        string what = $"{name}, {pattern}, lengths {lengths is not null}, bias {buckets is not null}";
        for (int rank = 0; rank < ranks.Length; rank++)
        {
            Tensor rows = tensor(layout.ShardOf(rank).Positions());
            for (int i = 0; i < 4; i++)
                Compare.AssertClose(
                    ranks[rank][i],
                    expected[i].index_select(1, rows),
                    ToleranceOf(type),
                    $"output, q, k, v ({i}) of rank {rank}: {what}",
                    // A shard that keeps next to nothing proves nothing by digits.
                    floor: expected[i].abs().max().to(float64).item<double>()
                );
        }

        if (buckets is not null)
            Compare.AssertClose(
                ranks.Select(rank => rank[4]).Aggregate((sum, rank) => sum + rank),
                expected[4],
                Tolerance,
                $"bias: {what}"
            );

        // The output, the gradients of q, k and v, and that of the bias.
        Tensor[] Run(int rank, ISequenceSharding sharding)
        {
            Tensor rows = tensor(sharding.ShardOf(Length).Positions());
            Tensor[] own = [.. inputs.Select(input => input.index_select(1, rows).to(type).requires_grad_())];
            using RelativePositionBias? bias = buckets is null ? null : new RelativePositionBias(Heads, buckets);
            bias?.to(float64);
            using (no_grad())
                bias?.Table.copy_(biases);
            Tensor output = DilatedAttention.Attend(own[0], own[1], own[2], pattern, sharding, lengths, bias);
            BackwardPass.Run(output.mul(own[3].detach()).sum());
            Tensor[] results = [output.detach(), own[0].grad!, own[1].grad!, own[2].grad!];
            return bias is null ? results : [.. results, bias.Table.grad!.clone()];
        }
    }

    // Rounding of the type, in blocks of other shapes.
    private static double ToleranceOf(ScalarType type) =>
        type switch
        {
            ScalarType.Float64 => Tolerance,
            ScalarType.Float32 => 1e-5,
            _ => 4e-2,
        };

    private static SequenceLayout Of(params (long First, long Length)[] ranks) =>
        new([.. ranks.Select(range => new[] { new PositionRange(range.First, range.Length) })]);
}
