using LongNet.Core.Attention;
using LongNet.Core.Numerics;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

public class DilatedAttentionModuleTests
{
    // float64 rounding of sums of at most 512 terms.
    private const double Tolerance = 1e-12;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_OneBranch_IsProjectionsAroundTheOracle(bool causal)
    {
        using var scope = NewDisposeScope();
        using var module = new DilatedAttention(
            dModel: 16,
            numHeads: 2,
            dilationRate: 3,
            segmentSize: 8,
            causal: causal
        );
        module.to(float64);
        Tensor x = randn([2, 21, 16], dtype: float64);
        var options = new AttentionPattern(new SegmentSchedule(new Branch(8, 3)), causal);
        Tensor mixed = AttentionOracle
            .Attend(Heads("q_proj"), Heads("k_proj"), Heads("v_proj"), options)
            .reshape(2, 21, 16);
        Compare.AssertClose(module.forward(x), Project("out_proj", mixed), Tolerance, "output");

        Tensor Heads(string name) => Project(name, x).view(2, 21, 2, 8);
        Tensor Project(string name, Tensor input) =>
            nn.functional.linear(input, module.get_parameter($"{name}.weight")!, module.get_parameter($"{name}.bias")!);
    }

    [Fact]
    public void Forward_DocumentedConstructor_EqualsItsOptions()
    {
        using var scope = NewDisposeScope();
        using var one = new DilatedAttention(16, 2, 3L, 8L, causal: true, useXpos: true, useRelPosBias: true);
        using var list = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = 16,
                Heads = 2,
                Branches = [new(SegmentLength: 8, Dilation: 3)],
                Causal = true,
                Positions = PositionEncoding.XPos,
                RelativePositionBias = new RelativePositionBuckets(32, 128, Bidirectional: false),
            }
        );
        list.load_state_dict(one.state_dict());
        Tensor x = randn(2, 21, 16);
        Assert.True(one.forward(x).eq(list.forward(x)).all().item<bool>());
    }

    [Fact]
    public void Forward_LongerInput_LeavesCausalRowsAsTheyWere()
    {
        using var scope = NewDisposeScope();
        using var module = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = 16,
                Heads = 2,
                Branches = [new(8, 1), new(32, 2)],
                Causal = true,
            }
        );
        module.to(float64);
        Tensor x = randn([1, 50, 16], dtype: float64);
        Tensor whole = module.forward(x);
        foreach (long length in new[] { 1, 7, 8, 9, 31, 33, 49 })
            Compare.AssertClose(
                module.forward(x.narrow(1, 0, length)),
                whole.narrow(1, 0, length),
                Tolerance,
                $"the first {length} rows"
            );
    }

    [Fact]
    public void Forward_WithXposOrRope_DependsOnPositionsAndWithoutOnlyOnOrder()
    {
        using var scope = NewDisposeScope();
        Tensor x = randn([1, 1, 16], dtype: float64).expand(1, 8, 16);
        Tensor v = randn([1, 8, 16], dtype: float64);
        foreach (PositionEncoding positions in Enum.GetValues<PositionEncoding>())
        {
            using var module = new DilatedAttention(
                new DilatedAttentionOptions
                {
                    Channels = 16,
                    Heads = 2,
                    Branches = [new(8, 1)],
                    Positions = positions,
                }
            );
            module.to(float64);
            // Equal rows attend alike wherever they lie, unless their positions count.
            Tensor output = module.forward(x + v.mul(1e-3));
            Tensor permuted = module.forward((x + v.mul(1e-3)).flip(1)).flip(1);
            Assert.Equal(positions != PositionEncoding.None, Compare.RelativeError(permuted, output) > 1e-9);
        }
    }

    [Fact]
    public void Forward_Dropout_ActsOnTheAttentionOutputInTrainingOnly()
    {
        using var scope = NewDisposeScope();
        using var module = new DilatedAttention(16, 2, 1L, 8L, dropout: 0.5);
        using var plain = new DilatedAttention(16, 2, 1L, 8L);
        plain.load_state_dict(module.state_dict());
        Tensor x = randn(4, 64, 16);
        module.eval();
        Assert.True(module.forward(x).eq(plain.forward(x)).all().item<bool>());
        module.train();
        // With the identity for the output projection and no bias, what is dropped shows as zeros.
        using (no_grad())
        {
            module.get_parameter("out_proj.weight")!.copy_(eye(16));
            module.get_parameter("out_proj.bias")!.zero_();
        }

        double dropped = module.forward(x).eq(zeros(1)).to(float64).mean().item<double>();
        // 4096 draws of chance 1/2 have a standard error of 0.008.
        Assert.InRange(dropped, 0.46, 0.54);
    }

    [Theory]
    [InlineData(ScalarType.Float64)]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public void Forward_AnyType_KeepsItForOutputAndGradient(ScalarType dtype)
    {
        using var scope = NewDisposeScope();
        using var module = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = 16,
                Heads = 2,
                Branches = [new(8, 1), new(16, 2)],
                Causal = true,
                Positions = PositionEncoding.XPos,
            }
        );
        module.to(dtype);
        Tensor x = randn(2, 21, 16).to(dtype).requires_grad_();
        Tensor output = module.forward(x);
        BackwardPass.Run(output.sum());
        Assert.Equal(dtype, output.dtype);
        Assert.Equal(dtype, x.grad!.dtype);
        Assert.True(x.grad.isfinite().all().item<bool>());
        Assert.All(module.parameters(), parameter => Assert.True(parameter.grad!.isfinite().all().item<bool>()));
    }

    [Fact]
    public void Attend_OneRowWithStridesOfALongerTensor_IsTaken()
    {
        using var scope = NewDisposeScope();
        var options = new AttentionPattern(new SegmentSchedule(new Branch(4, 1)), true);
        // "Contiguous", with a stride of 64 along the axis of one row.
        Tensor[] inputs = [.. Enumerable.Range(0, 3).Select(_ => randn(1, 4, 2, 8).transpose(0, 1).requires_grad_())];
        Tensor output = DilatedAttention.Attend(inputs[0], inputs[1], inputs[2], options);
        Compare.AssertClose(output, inputs[2], 1e-7, "a row that sees only itself");
        BackwardPass.Run(output.transpose(0, 1).mul(ones(1, 4, 2, 8)).sum());
    }

    [Fact]
    public void Constructor_Mistakes_SayWhatWouldWork()
    {
        AssertRefused("numHeads (3) must divide dModel (16): choose a head count that divides it.", () =>
            new DilatedAttention(16, 3, 1L, 8L)
        );
        AssertRefused("dropout is 1, but must be at least 0 and below 1.", () =>
            new DilatedAttention(16, 2, 1L, 8L, dropout: 1)
        );
        AssertRefused(
            "Branch 0 of the segment schedule is (w = 8, r = 0): segment length and dilation rate must be at least 1.",
            () => new DilatedAttention(16, 2, 0L, 8L)
        );
        AssertRefused(
            "A segment schedule needs at least one branch: give one segment length and one dilation rate.",
            () =>
                new DilatedAttention(
                    new DilatedAttentionOptions
                    {
                        Channels = 16,
                        Heads = 2,
                        Branches = [],
                    }
                )
        );
        AssertRefused(
            "xPos rotates pairs of channels, but a head has 5: choose d_model and heads so that d_model / "
                + "heads is even.",
            () => new DilatedAttention(10, 2, 1L, 8L, useXpos: true)
        );
        AssertRefused(
            "Relative position bias has 3 buckets, but needs an even number of at least 4, half for each direction.",
            () => new RelativePositionBias(2, new RelativePositionBuckets(3, 128, Bidirectional: true))
        );
        AssertRefused(
            "Relative position bias tells distances apart up to 16, but its 32 buckets already give 16 "
                + "distances one each: "
                + "choose a maximum distance above 16, or fewer buckets.",
            () => new RelativePositionBias(2, new RelativePositionBuckets(32, 16, Bidirectional: false))
        );
    }

    [Fact]
    public void Attend_Mistakes_AreNamed()
    {
        using var scope = NewDisposeScope();
        var options = new AttentionPattern(new SegmentSchedule(new Branch(8, 1)), Causal: true);
        Tensor x = zeros(1, 4, 2, 8);
        const string Expected =
            "Attention takes q, k and v of at least one row and of one type, float32, float64, bfloat16 or "
            + "float16, but was given ";
        AssertRefused($"{Expected}4 rows of Float32, Float64 and Float32.", () =>
            DilatedAttention.Attend(x, x.to(float64), x, options)
        );
        AssertRefused($"{Expected}4 rows of Int64, Int64 and Int64.", () =>
            DilatedAttention.Attend(x.to(int64), x.to(int64), x.to(int64), options)
        );
        Tensor empty = zeros(1, 0, 2, 8);
        AssertRefused($"{Expected}0 rows of Float32, Float32 and Float32.", () =>
            DilatedAttention.Attend(empty, empty, empty, options)
        );
        using var bias = new RelativePositionBias(3, new RelativePositionBuckets(32, 128, Bidirectional: false));
        AssertRefused("The relative position bias is of 3 heads, but attention has 2: make it for as many.", () =>
            DilatedAttention.Attend(x, x, x, options, bias: bias)
        );
        AssertRefused("A relative position bias is for at least one head, not for 0.", () =>
            new RelativePositionBias(0, bias.Buckets)
        );
    }

    [Fact]
    public void Forward_MistakenShape_IsNamed()
    {
        using var scope = NewDisposeScope();
        using var module = new DilatedAttention(16, 2, 1L, 8L);
        AssertRefused("DilatedAttention takes [batch, length, 16], but was given [2, 8, 32].", () =>
            module.forward(zeros(2, 8, 32))
        );
        AssertRefused("DilatedAttention takes [batch, length, 16], but was given [8, 16].", () =>
            module.forward(zeros(8, 16))
        );
    }

    private static void AssertRefused(string message, Func<object> mistake) =>
        Assert.Equal(message, Assert.Throws<UserException>(mistake).Message);
}
