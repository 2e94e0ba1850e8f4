using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Core.Numerics;
using LongNet.Core.Optimization;
using LongNet.Distributed;
using LongNet.Distributed.DataParallel;
using LongNet.Distributed.SequenceParallel;
using Xunit;
using static TorchSharp.torch;

namespace LongNet.RankWorker.Scenarios;

/// <summary>
/// Hundreds of training steps while another thread collects garbage without pause: whatever native code still needs and managed
/// code no longer holds would be freed under it, and whatever is held for ever would show in the resident memory.
/// </summary>
internal static class GarbageCollection
{
    private const int WarmupSteps = 100, Steps = 400;
    private const long Rows = 128, BatchSize = 2;

    // A tensor of activations, [2, 128, 64] of float32, has 64 KiB: one that leaks per step would add 18 MiB. What memory
    // allocators keep or give back between steps moves the number by less.
    private const long LargestGrowth = 12 << 20;

    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        using var mesh = new DeviceMesh(runtime.World, 1, runtime.World.Size);
        using var exchange = new GatheredKeyValues(mesh.Sequence);
        var config = new LongNetConfig
        {
            Layers = 2,
            DModel = 64,
            Heads = 4,
            FeedForward = 256,
            Vocabulary = 256,
            Schedule = new SegmentSchedule(new Branch(32, 1), new Branch(128, 2), new Branch(Rows * runtime.World.Size, 3)),
            Dropout = 0.1,
        };
        using var model = new LongNetLanguageModel(config, seed: 1, exchange);
        var parameters = model.named_parameters().Select(entry => (entry.name, entry.parameter)).ToArray();
        using var gradients = new GradientBuffer(parameters);
        using var optimizer = new FusedAdamW(parameters, gradients.Views, new AdamWOptions());

        using var stop = new CancellationTokenSource();
        long collections = 0;
        var collector = new Thread(() =>
        {
            while (!stop.IsCancellationRequested)
            {
                GC.Collect();
                GC.WaitForPendingFinalizers();
                collections++;
            }
        });
        collector.Start();
        long residentAfterWarmup = 0;
        var losses = new List<double>();
        for (int step = 0; step < Steps; step++)
        {
            losses.Add(Step(step));
            if (step == WarmupSteps)
                residentAfterWarmup = Environment.WorkingSet;
        }

        long growth = Environment.WorkingSet - residentAfterWarmup;
        stop.Cancel();
        collector.Join();
        Console.WriteLine($"rank {runtime.World.Rank}: {collections} collections, {residentAfterWarmup >> 20} MiB, grown by {growth >> 10} KiB");
        Assert.True(collections > Steps, $"only {collections} collections in {Steps} steps");
        Assert.True(growth < LargestGrowth, $"resident memory grew by {growth >> 20} MiB from step {WarmupSteps} to {Steps}");
        Assert.All(losses, loss => Assert.True(double.IsFinite(loss)));
        // One batch, over and over: the model learns it.
        Assert.InRange(losses[^1], 0, losses[0] / 2);

        double Step(int step)
        {
            using var scope = NewDisposeScope();
            using var generator = new Generator(5);
            model.train();
            gradients.Zero();
            Tensor tokens = randint(0, 256, [BatchSize, Rows * mesh.SequenceSize + 1], dtype: int64, generator: generator);
            long first = Rows * mesh.SequenceRank;
            var dropout = new DropoutContext(new RandomStream(0).Derive(step), [0, 1], first);
            Tensor share = tensor(1.0 / (BatchSize * Rows * mesh.SequenceSize), dtype: float32);
            Tensor loss = model.LossSum(tokens.narrow(1, first, Rows).contiguous(), tokens.narrow(1, first + 1, Rows).contiguous(), dropout).mul(share);
            BackwardPass.Run(loss);
            gradients.Reduce(mesh.World);
            _ = gradients.Clip(1);
            optimizer.Step(1e-3);
            Tensor total = loss.detach().clone().reshape(1);
            mesh.World.AllReduce(total);
            return total.to(float64).item<double>();
        }
    }
}
