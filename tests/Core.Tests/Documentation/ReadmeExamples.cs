using LongNet.Core.Attention;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Documentation;

/// <summary>The README's code, compiled and run; <see cref="ReadmeTests"/> checks that it is the same text.</summary>
public class ReadmeExamples
{
    [Fact]
    public void Attention_LengthThatNoSegmentDivides_KeepsTheShape()
    {
        using var scope = NewDisposeScope();
        using var attention = new DilatedAttention(
            dModel: 512,
            numHeads: 8,
            dilationRate: 2,
            segmentSize: 64,
            dropout: 0.1,
            causal: true,
            useXpos: false,
            useRelPosBias: false
        );

        Tensor x = rand(16, 1000, 512);
        Tensor output = attention.forward(x); // [16, 1000, 512]: 64 does not divide 1000: the last segment is shorter

        Assert.Equal([16, 1000, 512], output.shape);
        Assert.True(output.isfinite().all().item<bool>());
    }

    [Fact]
    public void Decoding_PromptAndNext_KeepTheirShapes()
    {
        using var scope = NewDisposeScope();
        using var causal = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = 64,
                Heads = 4,
                Branches = [new(SegmentLength: 32, Dilation: 1), new(64, 2), new(128, 4)],
                Causal = true,
                Positions = PositionEncoding.XPos,
                RelativePositionBias = RelativePositionBuckets.Default(bidirectional: false),
            }
        );
        using KeyValueCache cache = causal.CreateCache(batch: 1, maxLength: 4096);
        Tensor prompt = causal.Decode(rand(1, 100, 64), cache); // 100 rows at once,
        Tensor next = causal.Decode(rand(1, 1, 64), cache); // then one: the cost of the keys that its segments keep

        Assert.Equal([1, 100, 64], prompt.shape);
        Assert.Equal([1, 1, 64], next.shape);
        Assert.Equal(101, cache.Length);
    }

    [Fact]
    public void SimpleTransformer_FirstPosition_GivesTenClassesAndGradients()
    {
        using var scope = NewDisposeScope();
        using var model = new SimpleTransformer(
            dModel: 512,
            numHeads: 8,
            dilationRate: 2,
            segmentSize: 64,
            dropout: 0.1
        );
        Tensor classes = model.forward(rand(16, 1000, 512));
        Assert.Equal([16, 10], classes.shape);

        Core.Numerics.BackwardPass.Run(nn.functional.cross_entropy(classes, zeros(16, dtype: int64)));
        Assert.Equal(10, model.parameters().Count());
        Assert.All(model.parameters(), parameter => Assert.True(parameter.grad!.isfinite().all().item<bool>()));
        // Causal: the first position sees only itself, so values count and queries and keys do not.
        Assert.NotEqual(0, model.get_parameter("attention.v_proj.weight")!.grad!.abs().max().item<float>());
    }

    public sealed class SimpleTransformer : nn.Module<Tensor, Tensor>
    {
        private readonly DilatedAttention attention;
        private readonly Linear classifier;

        public SimpleTransformer(long dModel, long numHeads, long dilationRate, long segmentSize, double dropout)
            : base(nameof(SimpleTransformer))
        {
            attention = new DilatedAttention(dModel, numHeads, dilationRate, segmentSize, dropout, causal: true);
            classifier = nn.Linear(dModel, 10); // ten classes
            RegisterComponents();
        }

        public override Tensor forward(Tensor input)
        {
            using var scope = NewDisposeScope();
            Tensor attended = attention.forward(input);
            return classifier.forward(attended.select(1, 0)).MoveToOuterDisposeScope();
        }
    }
}
