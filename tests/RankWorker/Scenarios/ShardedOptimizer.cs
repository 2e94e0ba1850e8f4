using LongNet.Core.Optimization;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.DataParallel;
using LongNet.Distributed.Lifetime;
using TorchSharp.Modules;
using Xunit;
using static TorchSharp.torch;

namespace LongNet.RankWorker.Scenarios;

/// <summary>
/// A sharded optimizer computes what one that every rank has whole does, with its state divided among the ranks.
/// </summary>
internal sealed class ShardedOptimizer(Device device)
{
    private const int Steps = 8;

    private const double LargestNorm = 0.5;

    // Odd sizes, so that no bucket is divided evenly and slices begin anywhere; a bucket with less than an element per
    // rank.
    private static readonly (string Name, long[] Shape)[] Shapes =
    [
        ("embed_tokens.weight", [37, 19]),
        ("layers.0.self_attn.q_proj.weight", [19, 19]),
        ("layers.0.self_attn.q_proj.bias", [19]),
        ("layers.1.self_attn.q_proj.weight", [19, 19]),
        ("layers.1.self_attn.q_proj.bias", [19]),
        ("layers.10.scale", [1]),
        ("layer_norm.weight", [19]),
        ("layer_norm.bias", [19]),
    ];

    /// <param name="runtime">The ranks.</param>
    /// <param name="arguments">"--device": on a device whose tensors travel through host memory.</param>
    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        runtime.DeviceTransport = DeviceTransport.Host;
        new ShardedOptimizer(ScenarioDevice.Of(runtime.Environment, arguments)).Check(runtime.World);
    }

    private void Check(ProcessGroup world)
    {
        // libtorch's kernel takes the elements at the end of a tensor one by one and the others by vectors, which round
        // differently. A slice ends elsewhere than its parameter, so some elements differ in the last bit, and eight
        // steps add that up.
        Compare(world, float32, 1e-6);
        Compare(world, float64, 1e-14);
        Unscale(world);
        Scatter(world);
        RefuseASecondStart(world);
    }

    private void Compare(ProcessGroup world, ScalarType dtype, double tolerance)
    {
        using var scope = NewDisposeScope();
        var options = new AdamWOptions(WeightDecay: 0.3);
        var whole = Parameters(dtype);
        using var wholeGradients = new GradientBuffer(whole, world);
        using var wholeOptimizer = new FusedAdamW(whole, wholeGradients.Views, options);
        var sharded = Parameters(dtype);
        using var gradients = new GradientBuffer(sharded, world, sharded: true);
        using var shard = new ParameterShard(sharded, gradients);
        using var optimizer = new FusedAdamW(shard.Optimized, options);
        Assert.Equal(new int?[] { 10, 1, 0, null }, gradients.Layout.Buckets.Select(bucket => bucket.Layer));

        for (int step = 0; step < Steps; step++)
        {
            wholeGradients.Zero();
            gradients.Zero();
            for (int p = 0; p < Shapes.Length; p++)
            {
                // Accumulated in place, as backward does, and different on every rank.
                using var generator = new Generator((ulong)(1000 * step + 100 * world.Rank + p));
                Tensor gradient = randn(Shapes[p].Shape, dtype: dtype, generator: generator).to(device);
                wholeGradients.Views[p].add_(gradient);
                whole[p].Parameter.grad!.add_(gradient);
                gradients.Views[p].add_(gradient);
                sharded[p].Parameter.grad!.add_(gradient);
            }

            // Some buckets while backward still runs, as ranks agree on their order; the rest at its end.
            gradients.StartReduce(1);
            gradients.StartReduce(0);
            gradients.FinishReduce();
            wholeGradients.FinishReduce();
            foreach (var (slice, own) in shard.Slices.Zip(shard.Optimized))
                AssertSameBits(
                    wholeGradients.Views[slice.Parameter].view(-1).narrow(0, slice.Start, slice.Length),
                    own.Gradient,
                    own.Name
                );

            double expectedNorm = wholeGradients.UnscaleAndClip(LargestNorm),
                norm = gradients.UnscaleAndClip(LargestNorm);
            Assert.True(expectedNorm > 2 * LargestNorm, "the test must clip");
            // Float64 sums of squares, in another order.
            TestKit.Compare.AssertClose([norm], [expectedNorm], 1e-14, $"gradient norm of step {step}");

            double rate = 0.01 / (step + 1);
            wholeOptimizer.Step(rate);
            optimizer.Step(rate);
            shard.GatherParameters();
            for (int p = 0; p < Shapes.Length; p++)
            {
                TestKit.Compare.AssertClose(
                    sharded[p].Parameter,
                    whole[p].Parameter,
                    tolerance,
                    $"{Shapes[p].Name} after step {step}, {dtype}"
                );
                Tensor ofRoot = sharded[p].Parameter.detach().clone();
                world.Broadcast(ofRoot, 0);
                AssertSameBits(ofRoot, sharded[p].Parameter, Shapes[p].Name);
            }
        }

        Dictionary<string, Tensor> expected = wholeOptimizer.State.ToDictionary(
            entry => entry.Name,
            entry => entry.Value
        );
        foreach (ParameterSlice slice in shard.Slices)
        {
            foreach (string prefix in new[] { FusedAdamW.MeanPrefix, FusedAdamW.SquarePrefix })
            {
                string name = prefix + Shapes[slice.Parameter].Name;
                Tensor actual = optimizer.State.Single(entry => entry.Name == name).Value;
                TestKit.Compare.AssertClose(
                    actual,
                    expected[name].view(-1).narrow(0, slice.Start, slice.Length),
                    tolerance,
                    $"{name}, {dtype}"
                );
            }
        }

        AssertDivided(world, gradients.Layout, optimizer, wholeOptimizer, dtype);
    }

    // Measured on the tensors that the optimizers hold.
    private static void AssertDivided(
        ProcessGroup world,
        BucketLayout layout,
        FusedAdamW optimizer,
        FusedAdamW wholeOptimizer,
        ScalarType dtype
    )
    {
        long moments = 2 * (dtype == float64 ? 8 : 4),
            stepCount = sizeof(float);
        long elements = Shapes.Sum(entry => entry.Shape.Aggregate(1L, (product, size) => product * size));
        Assert.Equal(stepCount + moments * elements, wholeOptimizer.StateBytes);
        // Every bucket is cut into parts that differ by one element at most.
        double even = stepCount + (double)moments * elements / world.Size;
        Assert.InRange(
            optimizer.StateBytes,
            even - moments * layout.Buckets.Count,
            even + moments * layout.Buckets.Count
        );
        Tensor total = tensor(new[] { optimizer.StateBytes - stepCount });
        world.AllReduce(total);
        Assert.Equal(moments * elements, total.item<long>());
    }

    // Of scales that are powers of two nothing is left, clipped or not.
    private void Unscale(ProcessGroup world)
    {
        using var scope = NewDisposeScope();
        foreach (bool sharded in new[] { false, true })
        {
            foreach (double largestNorm in new[] { 0, LargestNorm, 1e9 })
            {
                var (plainNorm, plain) = Clipped(1, sharded, largestNorm);
                var (norm, unscaled) = Clipped(65536, sharded, largestNorm);
                Assert.Equal(plainNorm, norm);
                Assert.True(norm > 2 * LargestNorm, "the test must clip");
                foreach (var (expected, actual) in plain.Zip(unscaled))
                    AssertSameBits(
                        expected,
                        actual,
                        $"a gradient of norm {norm}, at most {largestNorm}, sharded: {sharded}"
                    );
            }
        }

        var (overflow, _) = Clipped(Math.Pow(2, 127), sharded: true, LargestNorm);
        Assert.False(double.IsFinite(overflow));

        // What a rank has of the gradients then.
        (double Norm, Tensor[] Gradients) Clipped(double scale, bool sharded, double largestNorm)
        {
            var parameters = Parameters(float32);
            using var gradients = new GradientBuffer(parameters, world, sharded);
            using ParameterShard? shard = sharded ? new ParameterShard(parameters, gradients) : null;
            for (int p = 0; p < Shapes.Length; p++)
            {
                using var generator = new Generator((ulong)(100 * world.Rank + p));
                gradients
                    .Views[p]
                    .add_(randn(Shapes[p].Shape, generator: generator).mul(tensor(scale, dtype: float32)).to(device));
            }

            gradients.FinishReduce();
            double norm = gradients.UnscaleAndClip(largestNorm, scale);
            return (
                norm,
                [
                    .. (shard?.Optimized.Select(own => own.Gradient) ?? gradients.Views).Select(gradient =>
                        gradient.clone()
                    ),
                ]
            );
        }
    }

    private void Scatter(ProcessGroup world)
    {
        using var scope = NewDisposeScope();
        var parameters = Parameters(float32);
        using var gradients = new GradientBuffer(parameters, world, sharded: true);
        using var shard = new ParameterShard(parameters, gradients);
        for (int p = 0; p < Shapes.Length; p++)
        {
            using var generator = new Generator((ulong)p);
            Tensor whole = randn(Shapes[p].Shape, generator: generator).to(device);
            ParameterSlice? slice = shard.Slices.SingleOrDefault(slice => slice.Parameter == p);
            Tensor? own = slice is null ? null : zeros(slice.Length, device: device);
            shard.ScatterFromRoot(p, world.Rank == 0 ? whole : null, own);
            if (slice is not null)
                AssertSameBits(whole.view(-1).narrow(0, slice.Start, slice.Length), own!, Shapes[p].Name);
        }
    }

    private void RefuseASecondStart(ProcessGroup world)
    {
        using var scope = NewDisposeScope();
        using var gradients = new GradientBuffer(Parameters(float32), world);
        gradients.StartReduce(2);
        Assert.Equal(
            "The reduction of bucket 2 is under way already: finish it before it is started again.",
            Assert.Throws<InvalidOperationException>(() => gradients.StartReduce(2)).Message
        );
        gradients.FinishReduce();
        gradients.StartReduce(2);
        gradients.FinishReduce();
    }

    // Disposed with the caller's scope.
    private (string Name, Parameter Parameter)[] Parameters(ScalarType dtype) =>
        [
            .. Shapes.Select(
                (entry, p) =>
                {
                    using var generator = new Generator((ulong)(77 + p));
                    return (
                        entry.Name,
                        new Parameter(randn(entry.Shape, dtype: dtype, generator: generator).to(device))
                    );
                }
            ),
        ];

    private static void AssertSameBits(Tensor expected, Tensor actual, string what) =>
        Assert.True(
            expected.shape.SequenceEqual(actual.shape) && expected.eq(actual).all().item<bool>(),
            $"{what} is not the same to the bit"
        );
}
