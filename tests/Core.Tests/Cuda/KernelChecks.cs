using LongNet.Core.Attention;
using LongNet.Core.Cuda;
using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using LongNet.TestKit;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Cuda;

/// <summary>Each kernel against tensor operations in float64, on a GPU or emulated.</summary>
internal static class KernelChecks
{
    private static readonly TensorBlockCombiner Exact = new();

    // Of half a unit in the last place of the result, which is all that is rounded to the type.
    public static double Tolerance(ScalarType type) =>
        type switch
        {
            ScalarType.Float32 => 1e-5,
            ScalarType.Float16 => 1e-3,
            _ => 8e-3,
        };

    /// <summary>Blocks of random branches, in random memory layouts.</summary>
    /// <returns>How many blocks there were.</returns>
    public static int MergeAndSum(KernelModule kernels, Device device, ScalarType type, int seed)
    {
        using var scope = NewDisposeScope();
        var random = new Random(seed);
        using var generator = new Generator((ulong)seed);
        long[] headDims = [8, 64, 16, 5, 1, 40, 20, 9];
        long batch = random.Next(1, 4),
            length = random.Next(1, 150),
            heads = random.Next(1, 7),
            headDim = headDims[seed % headDims.Length];
        RowBlock[] blocks = [.. Blocks(random, batch, length, heads)];
        string what = $"seed {seed}, {type}, [{batch}, {length}, {heads}, {headDim}], {blocks.Length} blocks";
        BlockResult[] results =
        [
            .. blocks.Select(block => new BlockResult(
                block,
                Values(random, generator, [block.Segments, block.Group.Heads, block.Rows, headDim], type, device),
                Values(random, generator, [block.Segments, block.Group.Heads, block.Rows, 1], float32, device)
                    .mul(tensor(4f, device: device))
                    .squeeze(-1)
            )),
        ];
        BlockResult[] exact =
        [
            .. results.Select(result => new BlockResult(
                result.Block,
                result.Values.cpu().to(float64),
                result.LogSumExp!.cpu().to(float64)
            )),
        ];
        Tensor like = empty([batch, length, heads, headDim], dtype: type, device: device),
            likeExact = empty([batch, length, heads, headDim], dtype: float64);
        var combiner = new KernelBlockCombiner(kernels);

        var (output, logSumExp) = combiner.Merge(like, results);
        var (expected, expectedLogSumExp) = Exact.Merge(likeExact, exact);
        Assert.Equal(type, output.dtype);
        Compare.AssertClose(output, expected, Tolerance(type), $"mixture of {what}", floor: 1);
        Tensor empties = expectedLogSumExp.isinf();
        Assert.True(Same(empties, logSumExp.cpu().isneginf()), $"rows of no block: {what}");
        Compare.AssertClose(Finite(logSumExp.cpu()), Finite(expectedLogSumExp), 1e-5, $"weights of {what}", floor: 1);

        foreach (ScalarType sumType in new[] { type, float32 })
        {
            Tensor sum = combiner.Sum(like, sumType, results);
            Assert.Equal(sumType, sum.dtype);
            Compare.AssertClose(
                sum,
                Exact.Sum(likeExact, float64, exact),
                Tolerance(sumType),
                $"sum in {sumType} of {what}",
                floor: 1
            );
            Assert.True(Same(sum, combiner.Sum(like, sumType, results)), $"sums differ: {what}");
        }

        return blocks.Length;

        Tensor Finite(Tensor values) => values.masked_fill(empties, zeros([], dtype: values.dtype).ToScalar());
    }

    /// <summary>Rotation with its gradient.</summary>
    public static void Rotation(KernelModule kernels, Device device, ScalarType type, long headDim, bool strided)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator((ulong)headDim);
        long[] shape = [2, 13, 3, headDim];
        Tensor Random() => randn([2, 13, strided ? 5 : 3, headDim], dtype: float64, generator: generator).to(type);

        Tensor input = Random().to(device).requires_grad_(),
            exact = input.detach().cpu().to(float64).requires_grad_(),
            cotangent = Random();
        Tensor factors = randn([13 + 4, 1, headDim / 2], dtype: complex64, generator: generator).narrow(0, 3, 13);
        Tensor output = FusedRotation.Apply(kernels, input.narrow(2, 0, 3), factors.to(device));
        Tensor expected = exact
            .narrow(2, 0, 3)
            .reshape(2, 13, 3, headDim / 2, 2)
            .view_as_complex()
            .mul(factors.to(complex128))
            .view_as_real()
            .reshape(shape);
        output.backward([cotangent.narrow(2, 0, 3).to(device)]);
        BackwardPass.ThrowIfFailed();
        expected.backward([cotangent.narrow(2, 0, 3).to(float64)]);
        string what = $"{type}, {headDim} channels, strided {strided}";
        Assert.Equal(type, output.dtype);
        Compare.AssertClose(output, expected, Tolerance(type), $"rotation of {what}");
        Compare.AssertClose(input.grad!, exact.grad!, Tolerance(type), $"gradient of {what}");
        using var noGradient = no_grad();
        Assert.True(Same(output, FusedRotation.Apply(kernels, input.narrow(2, 0, 3), factors.to(device))), what);
    }

    /// <summary>Dropout with its gradient: exactly what the masks of CounterDropout give.</summary>
    public static void Dropout(KernelModule kernels, Device device, ScalarType type, int sequences, long channels)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator((ulong)channels);
        // Two ranges, so that a position is not a row.
        SequenceShard shard = new SequenceLayout([
            [new PositionRange(30, 10), new PositionRange(0, 7)],
            [new PositionRange(7, 23)],
        ]).ShardOf(0);
        long[] shape = [sequences, shard.Length, channels];
        var context = new DropoutContext(
            new RandomStream(3).Derive("test"),
            [.. Enumerable.Range(5, sequences).Select(sequence => (long)sequence)],
            shard
        );
        Tensor Random() => randn(shape, dtype: float64, generator: generator).to(type).to(device);

        Tensor input = Random().requires_grad_(),
            cotangent = Random();
        Tensor mask = CounterDropout.Mask(shape, 0.3, context, "site").to(type).to(device);
        Tensor output = FusedDropout.Apply(kernels, input, CounterDropout.MaskParameters.Of(0.3, context, "site"));
        output.backward([cotangent]);
        BackwardPass.ThrowIfFailed();
        Assert.True(Same(output, input.mul(mask)), $"dropout of {type}, {channels} channels");
        Assert.True(Same(input.grad!, cotangent.mul(mask)), $"gradient of {type}, {channels} channels");
    }

    private static bool Same(Tensor first, Tensor second) => first.eq(second).all().item<bool>();

    // As branches have them, on all rows or on some, and cut into parts as a last segment or a range of heads is.
    private static IEnumerable<RowBlock> Blocks(Random random, long batch, long length, long heads)
    {
        int branches = random.Next(0, 6);
        for (int b = 0; b < branches; b++)
        {
            var branch = new Branch(random.Next(1, (int)length + 1), random.Next(1, 9));
            HeadOffsets offsets = random.Next(2) == 0 ? HeadOffsets.Interleaved : HeadOffsets.Blocked;
            long firstRow = random.Next(3) == 0 ? random.Next((int)length) : 0,
                firstSequence = random.Next((int)batch);
            var range = new RowRange(firstSequence, batch - firstSequence, length, firstRow, length - firstRow);
            foreach (RowBlock block in RowBlock.OfBranch(branch, offsets, heads, range))
            {
                foreach (RowBlock part in random.Next(3) == 0 ? block.Split(1, 1, 1) : [block])
                    yield return part;
            }
        }
    }

    private static Tensor Values(Random random, Generator generator, long[] shape, ScalarType type, Device device)
    {
        // Contiguous; with heads inside of rows, as FlashAttention has it; and the channels padded to more.
        long padding = random.Next(3) == 0 ? random.Next(1, 9) : 0;
        bool transposed = random.Next(2) == 0;
        long[] stored = transposed
            ? [shape[0], shape[2], shape[1], shape[3] + padding]
            : [.. shape[..3], shape[3] + padding];
        Tensor values = randn(stored, dtype: float64, generator: generator).to(type).to(device).narrow(3, 0, shape[3]);
        return transposed ? values.transpose(1, 2) : values;
    }
}
