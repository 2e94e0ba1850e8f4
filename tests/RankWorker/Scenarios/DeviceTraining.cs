using LongNet.Core.Devices;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.TestKit;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;
using LongNet.Trainer.Loop;
using LongNet.Trainer.Reporting;
using Xunit;

namespace LongNet.RankWorker.Scenarios;

/// <summary>
/// Trains a few steps on the CPU and on another device, and compares losses, gradient norms and the evaluation. The
/// device is the emulated one, so that it needs no GPU.
/// </summary>
internal static class DeviceTraining
{
    private const int Steps = 3;

    // Both compute in float32, one with fused operators and the other with single ones, whose sums round differently.
    // Three steps of AdamW let differences grow: its first steps have the size of the rate, whatever the gradient's is.
    private const double Tolerance = 2e-5;

    /// <param name="runtime">Of this rank.</param>
    /// <param name="overrides">Keys of the configuration, "key=value".</param>
    public static void Run(DistributedRuntime runtime, string[] overrides)
    {
        RunConfig config = ConfigurationFile.Load(
            Repository.PathOf("configs/ranks-agree.yaml"),
            ["training.steps=" + Steps, "evaluation.sequences=2", .. overrides]
        );
        RunPlan plan = RunPlan.Open(config, runtime.World.Size);
        using var mesh = new DeviceMesh(runtime.World, plan.DataRanks, plan.SequenceRanks);
        Result expected = Train(plan, mesh, ComputeDevice.Cpu),
            actual = Train(plan, mesh, EmulatedDevice.Compute);

        Assert.Equal(0, expected.DeviceReads);
        // The loss and the norm come together, in one read of each step. What is offloaded is read too, and what
        // travels through the host's memory.
        if (config.Memory.Offload == Offload.None && runtime.World.Size == 1)
            Assert.Equal(Steps, actual.DeviceReads);
        else
            Assert.InRange(actual.DeviceReads, Steps, long.MaxValue);
        for (int step = 0; step < Steps; step++)
        {
            AssertClose(expected.Steps[step].Loss, actual.Steps[step].Loss, $"loss of step {step + 1}");
            AssertClose(
                expected.Steps[step].GradientNorm,
                actual.Steps[step].GradientNorm,
                $"gradient norm of step {step + 1}",
                factor: 10
            );
        }

        AssertClose(expected.Evaluation, actual.Evaluation, "evaluation");
        if (runtime.World.Rank == 0)
            Console.WriteLine($"losses {string.Join(", ", actual.Steps.Select(step => step.Loss))}");
    }

    private static Result Train(RunPlan plan, DeviceMesh mesh, ComputeDevice device)
    {
        using var state = TrainingState.Create(plan, mesh, device);
        using ITokenSource source = plan.Corpus.OpenTokens();
        var reader = new BatchReader(source, plan.Config.Training.SequenceLength);
        using var step = new TrainingStep(plan, mesh, state, StepServices.From(plan, reader));
        Assert.All(state.TrainedModel.Parameters, entry => Assert.Equal(device.Device.type, entry.Value.device_type));
        long before = DeviceRead.Count;
        StepMetrics[] steps = [.. Enumerable.Range(0, Steps).Select(_ => step.Run())];
        long reads = DeviceRead.Count - before;
        double evaluation = new Evaluation(plan, mesh, state.TrainedModel, reader).Run().Loss;
        return new Result(steps, evaluation, reads);
    }

    private static void AssertClose(double expected, double actual, string what, double factor = 1) =>
        Assert.True(
            Math.Abs(actual - expected) <= factor * Tolerance * Math.Abs(expected),
            $"The {what} is {actual:R} on the device, but {expected:R} on the CPU."
        );

    private sealed record Result(StepMetrics[] Steps, double Evaluation, long DeviceReads);
}
