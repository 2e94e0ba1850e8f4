using LongNet.Core.Devices;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.TestKit;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;
using LongNet.Trainer.Loop;
using Xunit;
using static TorchSharp.torch;

namespace LongNet.RankWorker.Scenarios;

/// <summary>
/// Hundreds of training steps and evaluations while another thread collects garbage without pause. A tensor that native
/// code still uses and managed code no longer refers to would be freed too early; one that is never freed would show as
/// growth.
/// </summary>
internal static class GarbageCollection
{
    private const int WarmupSteps = 50,
        Steps = 120,
        StepsPerEvaluation = 40;

    // A tensor of activations, [4, 256, 64] of float32, has 256 KiB: one that leaks per step would add 17 MiB. Memory
    // that allocators keep or release between steps changes the number by less than this.
    private const long LargestGrowth = 12 << 20;

    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        RunConfig config = ConfigurationFile.Load(
            Repository.PathOf("configs/ranks-agree.yaml"),
            [
                $"training.steps={Steps}",
                "training.micro_batch_size=auto",
                "model.dropout=0.1",
                "model.attention.segment_lengths=[64, 256, 512]",
                "model.attention.dilation_rates=[1, 2, 3]",
            ]
        );
        RunPlan plan = RunPlan.Open(config, runtime.World.Size);
        using var mesh = new DeviceMesh(runtime.World, plan.DataRanks, plan.SequenceRanks);
        using var state = TrainingState.Create(plan, mesh, ComputeDevice.Cpu);
        using ITokenSource source = plan.Corpus.OpenTokens();
        var reader = new BatchReader(source, config.Training.SequenceLength);
        using var step = new TrainingStep(plan, mesh, state, StepServices.From(plan, reader));
        var evaluation = new Evaluation(plan, mesh, state.TrainedModel, reader);

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
        long residentAfterWarmup = 0,
            tensorsAfterWarmup = 0;
        double first = evaluation.Run().Loss,
            last = first;
        while (state.Step < Steps)
        {
            Assert.True(double.IsFinite(step.Run().Loss));
            if (state.Step % StepsPerEvaluation == 0)
                last = evaluation.Run().Loss;
            if (state.Step == WarmupSteps)
                (residentAfterWarmup, tensorsAfterWarmup) = (Environment.WorkingSet, Tensor.TotalCount);
        }

        long growth = Environment.WorkingSet - residentAfterWarmup,
            tensors = Tensor.TotalCount - tensorsAfterWarmup;
        stop.Cancel();
        collector.Join();
        Console.WriteLine(
            $"rank {runtime.World.Rank}: {collections} collections, {residentAfterWarmup >> 20} MiB, grown "
                + $"by {growth >> 10} KiB and {tensors} tensors, loss {first} to {last}"
        );
        Assert.True(collections > Steps, $"only {collections} collections in {Steps} steps");
        Assert.True(
            growth < LargestGrowth,
            $"resident memory grew by {growth >> 20} MiB from step {WarmupSteps} to {Steps}"
        );
        Assert.Equal(0, tensors);
        Assert.InRange(last, 0, first * 0.6);
    }
}
