using LongNet.Core.Attention;
using LongNet.Core.Attention.Kernels;
using LongNet.Core.Native;
using LongNet.TestKit;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

public class Avx512FlashKernelTests
{
    // float32 rounding (6e-8) of two sums of up to 1100 terms one after the other, which grows with the root of their
    // number.
    private const double Tolerance = 5e-6;

    // Results of that kind are rounded to 8 bits, by half of the last at most.
    private const double Bfloat16Tolerance = 1.0 / 256 + Tolerance;

    public static IEnumerable<object[]> Problems() =>
        from queries in new[] { 1, 11, 12, 97, 385, 800 }
        from moreKeys in new[] { 0, 300 }
        from headDim in new[] { 32, 64, 96 }
        from causal in new[] { false, true }
        from biased in new[] { false, true }
        from type in new[] { float32, bfloat16 }
        // Causal attention is among the same rows.
        where !causal || moreKeys == 0
        // The type changes how rows are read and written, not what is done with them.
        where type == float32 || headDim == 64
        select new object[] { queries, queries + moreKeys, headDim, causal, biased, type };

    [Theory]
    [MemberData(nameof(Problems))]
    public void ForwardAndBackward_AnyShape_MatchFloat64(
        long queries,
        long keys,
        long headDim,
        bool causal,
        bool biased,
        ScalarType type
    )
    {
        SkipWithoutVectors();
        using var scope = NewDisposeScope();
        using var generator = new Generator(31);
        var group = new HeadGroup(0, 1, 2, 2);
        Tensor q = Strided(queries),
            k = Strided(keys),
            v = Strided(keys),
            gradient = Strided(queries);
        Tensor? table = biased ? randn([8, 5], dtype: float64, generator: generator) : null;
        var rule = new RelativePositionBuckets(8, 40, Bidirectional: !causal);

        // Other output and log-sum-exp than the kernel's own, as those of a mixture are.
        PairBias exactBias = Bias(float64);
        var exact = BlockwiseKernel.Forward(q.to(float64), k.to(float64), v.to(float64), causal, exactBias);
        Tensor mixed = (exact.Output * 0.7 + 0.1).to(type),
            total = exact.LogSumExp + 0.4;
        var expected = BlockwiseKernel.Backward(
            gradient.to(float64),
            q.to(float64),
            k.to(float64),
            v.to(float64),
            mixed.to(float64),
            total,
            causal,
            exactBias
        );
        PairBias? bias = biased ? Bias(float32) : null;
        var (output, logSumExp) = Avx512FlashKernel.Forward(q, k, v, causal, bias);
        var actual = Avx512FlashKernel.Backward(gradient, q, k, v, mixed, total.to(float32), causal, bias);

        double tolerance = type == bfloat16 ? Bfloat16Tolerance : Tolerance;
        Assert.All(new[] { output, actual.Q, actual.K, actual.V }, result => Assert.Equal(type, result.dtype));
        Compare.AssertClose(output, exact.Output, tolerance, "output");
        Compare.AssertClose(logSumExp, exact.LogSumExp, Tolerance, "log-sum-exp");
        Compare.AssertClose(actual.Q, expected.Q, tolerance, "gradient of q");
        Compare.AssertClose(actual.K, expected.K, tolerance, "gradient of k");
        Compare.AssertClose(actual.V, expected.V, tolerance, "gradient of v");
        if (bias is null)
            return;
        Tensor ofTable = zeros([8, 5]),
            expectedOfTable = zeros([8, 5], dtype: float64);
        bias.AddToTable(ofTable);
        exactBias.AddToTable(expectedOfTable);
        Assert.True(expectedOfTable.abs().max().item<double>() > 0.1);
        // Sums over all pairs that share a bucket.
        Compare.AssertClose(ofTable, expectedOfTable, 1e-5, "gradient of the table");

        // [3, 2, rows, headDim]: every other row and head of a larger tensor.
        Tensor Strided(long rows) =>
            randn([3, 2 * rows, 5, headDim], generator: generator)
                .to(type)
                .as_strided([3, 2, rows, headDim], [2 * rows * 5 * headDim, 2 * headDim, 2 * 5 * headDim, 1], headDim);

        PairBias Bias(ScalarType accumulation) =>
            PairBias.Create(
                table,
                table is null ? null : rule,
                group,
                dilation: 3,
                queries,
                keys,
                keyOffset: keys - queries,
                causal,
                accumulation,
                CPU,
                collectsGradient: true
            );
    }

    /// <summary>Whatever the threads, and also where they are more than heads.</summary>
    [Theory]
    [InlineData(ScalarType.Float32)]
    [InlineData(ScalarType.BFloat16)]
    public void Backward_MoreThreadsThanHeads_SumsTheirParts(ScalarType type)
    {
        SkipWithoutVectors();
        using var scope = NewDisposeScope();
        Tensor[] inputs = [.. Enumerable.Range(0, 4).Select(_ => randn(1, 1, 500, 32).to(type))];
        int threads = get_num_threads();
        try
        {
            set_num_threads(1);
            var one = Run();
            set_num_threads(5);
            var five = Run();
            var again = Run();
            for (int t = 0; t < one.Length; t++)
            {
                Compare.AssertClose(
                    five[t],
                    one[t],
                    type == bfloat16 ? 2 * Bfloat16Tolerance : Tolerance,
                    $"result {t}"
                );
                Assert.True(five[t].eq(again[t]).all().item<bool>(), $"result {t} is not the same twice.");
            }
        }
        finally
        {
            set_num_threads(threads);
        }

        Tensor[] Run()
        {
            var (output, logSumExp) = Avx512FlashKernel.Forward(inputs[0], inputs[1], inputs[2], true, null);
            var (q, k, v) = Avx512FlashKernel.Backward(
                inputs[3],
                inputs[0],
                inputs[1],
                inputs[2],
                output,
                logSumExp,
                true,
                null
            );
            return [output, logSumExp, q, k, v];
        }
    }

    /// <summary>
    /// Every bfloat16 there is comes back from float32, and what lies between two goes to the nearer, or even, one.
    /// </summary>
    [Fact]
    public unsafe void HeadRows_OfBfloat16_RoundAsLibtorchDoes()
    {
        SkipWithoutVectors();
        using var scope = NewDisposeScope();
        using var generator = new Generator(5);
        Tensor all = tensor(
                Enumerable.Range(0, 1 << 16).Select(bits => BitConverter.UInt32BitsToSingle((uint)bits << 16)).ToArray()
            ),
            between = randn([1 << 16], generator: generator);
        Tensor singles = cat([
            all,
            between,
            between * 1e-39,
            between * 1e38,
            full([16], 1 + 1 / 256.0),
            full([16], 1 + 3 / 256.0),
        ]);
        long count = singles.shape[0];
        Tensor source = singles.view(1, 1, 1, count),
            target = empty([1, 1, 1, count], dtype: bfloat16),
            back = empty([1, 1, 1, count]);
        HeadRows.OneHead from = new HeadRows(source).Of(0),
            to = new HeadRows(target).Of(0),
            last = new HeadRows(back).Of(0);
        for (int c = 0; c < count; c += 16)
        {
            to.Store(0, c, from.Load(0, c));
            last.Store(0, c, to.Load(0, c));
        }

        Tensor expected = source.to(bfloat16).to(float32),
            numbers = source.eq(source);
        Assert.True(target.isnan().eq(numbers.logical_not()).all().item<bool>());
        Assert.True(target.to(float32).masked_select(numbers).eq(expected.masked_select(numbers)).all().item<bool>());
        Assert.True(back.masked_select(numbers).eq(expected.masked_select(numbers)).all().item<bool>());
        Assert.True(back.isnan().eq(numbers.logical_not()).all().item<bool>());
    }

    /// <summary>Logits that grow from key to key: every tile makes what was summed up before negligible.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(-1)]
    public void Forward_LogitsOfHundreds_NeitherOverflowNorVanish(double direction)
    {
        SkipWithoutVectors();
        using var scope = NewDisposeScope();
        Tensor q = full([1, 1, 100, 32], 10.0),
            k = arange(1000).view(1, 1, 1000, 1).expand(1, 1, 1000, 32).to(float32) * (float)(0.1 * direction);
        Tensor v = randn(1, 1, 1000, 32);
        var (output, logSumExp) = Avx512FlashKernel.Forward(q, k, v, false, null);
        Tensor logits = q.to(float64).matmul(k.to(float64).transpose(2, 3)) / Math.Sqrt(32);
        // Logits of 5600 keep 5e-4 of themselves.
        Compare.AssertClose(output, logits.softmax(-1).matmul(v.to(float64)), 1e-5, "output");
        Compare.AssertClose(logSumExp, logits.logsumexp(-1), 1e-6, "log-sum-exp", floor: 1);
    }

    [Fact]
    public void Forward_NotANumber_IsNotHidden()
    {
        SkipWithoutVectors();
        using var scope = NewDisposeScope();
        foreach (int place in new[] { 0, 1, 2 })
        {
            Tensor[] inputs = [.. Enumerable.Range(0, 3).Select(_ => randn(1, 1, 40, 32))];
            inputs[place][0][0][20].fill_(float.NaN);
            var (output, _) = Avx512FlashKernel.Forward(inputs[0], inputs[1], inputs[2], true, null);
            // Queries that a tile has in common with row 20 multiply its value by 0, as in libtorch's kernel.
            Assert.True(output.narrow(2, 0, 12).isfinite().all().item<bool>());
            Assert.False(output[0][0][20].isfinite().any().item<bool>());
            Assert.Equal(place == 0, output[0][0][39].isfinite().all().item<bool>());
        }
    }

    [Fact]
    public unsafe void Exp_FromUnderflowToOverflow_IsRightToTwoUnits()
    {
        SkipWithoutVectors();
        for (float x = -110; x < 88; x += 0.0137f)
        {
            double expected = Math.Exp(x),
                actual = VectorMath.Exp(System.Runtime.Intrinsics.Vector512.Create(x))[5];
            double unit = Math.Max(expected * Math.Pow(2, -23), 1.4e-45);
            Assert.True(Math.Abs(actual - expected) <= 2 * unit, $"exp({x}) is {expected}, not {actual}.");
        }

        Assert.Equal(1, VectorMath.Exp(System.Runtime.Intrinsics.Vector512<float>.Zero)[0]);
        Assert.True(float.IsNaN(VectorMath.Exp(System.Runtime.Intrinsics.Vector512.Create(float.NaN))[0]));
        Assert.Equal(0, VectorMath.Exp(System.Runtime.Intrinsics.Vector512.Create(float.NegativeInfinity))[0]);
    }

    [Fact]
    public void ForEach_AnErrorInOneCall_IsThrown()
    {
        var error = Assert.Throws<InvalidOperationException>(() => TensorThreads.ForEach(50, number =>
            {
                if (number == 33)
                    throw new InvalidOperationException("the 33rd");
            }));
        Assert.Equal("the 33rd", error.Message);
        long sum = 0;
        TensorThreads.ForEach(1000, number => Interlocked.Add(ref sum, number));
        Assert.Equal(499_500, sum);
    }

    private static void SkipWithoutVectors() =>
        Assert.SkipUnless(
            System.Runtime.Intrinsics.X86.Avx512F.IsSupported,
            "this processor has no AVX-512, so libtorch's kernel is used instead"
        );
}
