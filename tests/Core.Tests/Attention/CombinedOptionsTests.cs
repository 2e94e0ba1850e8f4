using LongNet.Core.Attention;
using LongNet.Core.Numerics;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

/// <summary>The module with its options together, against projections around the oracle.</summary>
public class CombinedOptionsTests
{
    // float64 rounding of sums of a few hundred terms, through four projections.
    private const double Tolerance = 1e-12;

    private const long Batch = 3,
        Length = 50,
        DModel = 32,
        Heads = 4;

    private static readonly SegmentSchedule Schedule = new(new Branch(8, 1), new Branch(16, 2), new Branch(50, 3));

    [Theory]
    [MemberData(nameof(Combinations))]
    public void Forward_OptionsTogether_MatchTheOracle(
        string positions,
        bool useBias,
        bool padded,
        bool causal,
        HeadOffsets offsets
    )
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(5);
        using var module = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = DModel,
                Heads = Heads,
                Branches = Schedule,
                Causal = causal,
                Positions = Enum.Parse<PositionEncoding>(positions, ignoreCase: true),
                RelativePositionBias = useBias ? RelativePositionBuckets.Default(bidirectional: !causal) : null,
                HeadOffsets = offsets,
            }
        );
        module.to(float64);
        const string Table = "relative_position.relative_attention_bias.weight";
        if (useBias)
        {
            using (no_grad())
                module.get_parameter(Table)!.normal_(0, 1, generator);
        }

        long[]? lengths = padded ? [37, 50, 5] : null;
        Tensor values = randn([Batch, Length, DModel], dtype: float64, generator: generator);
        Tensor cotangent = randn([Batch, Length, DModel], dtype: float64, generator: generator);
        Tensor x = values.clone().requires_grad_();
        Tensor output = lengths is null ? module.forward(x) : module.forward(x, lengths);
        BackwardPass.Run(output.mul(cotangent).sum());

        Tensor exact = values.clone().requires_grad_();
        Dictionary<string, Tensor> parameters = module
            .named_parameters()
            .ToDictionary(entry => entry.name, entry => entry.parameter.detach().clone().requires_grad_());
        var options = new AttentionPattern(Schedule, causal, offsets);
        Tensor q = SplitHeads("q_proj"),
            k = SplitHeads("k_proj"),
            v = SplitHeads("v_proj");
        if (positions != "none")
            (q, k) = (
                AttentionOracle.Rotate(q, positions == "xpos" ? 1 : 0),
                AttentionOracle.Rotate(k, positions == "xpos" ? -1 : 0)
            );
        Tensor mixed = AttentionOracle.Attend(
            q,
            k,
            v,
            options,
            lengths,
            useBias ? parameters[Table] : null,
            new RelativePositionBuckets(
                RelativePositionBuckets.DefaultCount,
                RelativePositionBuckets.DefaultMaxDistance,
                !causal
            )
        );
        Tensor expected = Project("out_proj", mixed.reshape(Batch, Length, DModel));
        if (lengths is not null)
            expected =
                expected * arange(Length).unsqueeze(0).lt(tensor(lengths).unsqueeze(1)).to(float64).unsqueeze(-1);
        expected.mul(cotangent).sum().backward();

        Compare.AssertClose(output, expected, Tolerance, "output");
        Compare.AssertClose(x.grad!, exact.grad!, Tolerance, "gradient of the input");
        foreach (var (name, parameter) in module.named_parameters())
        {
            // A bias of all keys moves a row's logits alike where nothing is rotated: what is left is rounding.
            Compare.AssertClose(parameter.grad!, parameters[name].grad!, Tolerance, $"gradient of {name}", floor: 1);
        }

        Tensor Project(string name, Tensor input) =>
            nn.functional.linear(input, parameters[$"{name}.weight"], parameters[$"{name}.bias"]);
        Tensor SplitHeads(string name) => Project(name, exact).view(Batch, Length, Heads, DModel / Heads);
    }

    [Fact]
    public void Forward_BiasInBFloat16_KeepsTheTypeAndTheTableItsOwn()
    {
        using var scope = NewDisposeScope();
        using var module = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = DModel,
                Heads = Heads,
                Branches = Schedule,
                Causal = true,
                RelativePositionBias = RelativePositionBuckets.Default(bidirectional: false),
            }
        );
        module.to(bfloat16);
        Tensor x = randn(Batch, Length, DModel).to(bfloat16).requires_grad_();
        Tensor output = module.forward(x);
        BackwardPass.Run(output.sum());
        Assert.Equal(bfloat16, output.dtype);
        Assert.All(module.parameters(), parameter =>
        {
            Assert.Equal(parameter.dtype, parameter.grad!.dtype);
            Assert.True(parameter.grad.isfinite().all().item<bool>());
        });
    }

    public static IEnumerable<object[]> Combinations() =>
        from positions in new[] { "none", "xpos", "rope" }
        from bias in new[] { false, true }
        from padded in new[] { false, true }
        from causal in new[] { false, true }
        from offsets in Enum.GetValues<HeadOffsets>()
        select new object[] { positions, bias, padded, causal, offsets };
}
