using LongNet.Core.Model;
using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Reporting;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Trainer.Loop;

/// <summary>
/// One optimizer step: every micro-batch forward and backward, gradients summed over all ranks, clipped, applied. The
/// loss is the sum over all tokens of the step divided by the number of valid ones, wherever they were computed.
/// </summary>
/// <remarks>
/// In float16 the loss is scaled for backward (<see cref="LossScaler"/>). A step that overflows changes neither
/// parameters nor optimizer state, but counts as any other for the learning rate and for the data.
/// </remarks>
internal sealed class TrainingStep
{
    private static readonly Scalar IgnoredTarget = LongNetLanguageModel.IgnoredTarget.ToScalar();

    private readonly RunPlan plan;
    private readonly DeviceMesh mesh;
    private readonly TrainingState state;
    private readonly StepServices services;
    private readonly SequenceShard shard;

    /// <param name="plan">The run.</param>
    /// <param name="mesh">The ranks. Not owned.</param>
    /// <param name="state">What a step changes. Not owned.</param>
    /// <param name="services">Not owned.</param>
    public TrainingStep(RunPlan plan, DeviceMesh mesh, TrainingState state, StepServices services)
    {
        this.plan = plan;
        this.mesh = mesh;
        this.state = state;
        this.services = services;
        shard = plan.Layout.ShardOf(mesh.SequenceRank);
    }

    /// <summary>Does the next step. Collective over the world.</summary>
    /// <param name="saver">Copies the state meanwhile: the step waits for its copy before it changes the state. Null
    /// where nothing is saved.</param>
    /// <returns>What is measured, without the time that saving has taken.</returns>
    /// <exception cref="AgreedUserException">The gradient is not finite, and no smaller scale could make it so;
    /// parameters are left as they were.</exception>
    public StepMetrics Run(CheckpointSaver? saver = null)
    {
        var measurement = new StepMeasurement(mesh.World.Monitor, () => state.BytesSent, services.Clock);
        services.TrimPolicy.BeforeStep(state.Device.AllocatedBytes());
        using var scope = NewDisposeScope();
        MicroBatch[] batches = Read();
        // The number of valid targets of the complete step comes first: it scales every rank's and micro-batch's part
        // of the loss.
        long tokens = (long)mesh.World.Sum(batches.Sum(batch => CountValid(batch.Targets)));
        double scale = state.LossScaler?.Scale ?? 1;
        double lossSum = ForwardAndBackward(batches, scale / Math.Max(1, tokens));
        StepResult result = Reduce(lossSum, tokens, scale);
        double rate = services.LearningRate.RateAt(state.Step + 1);
        Update(result, rate, saver);
        if (services.TrimPolicy.ShouldTrim(state.Device.AllocatedBytes()))
            state.Device.TrimMemory();
        state.Advance(plan.Batch.BatchSize, tokens);
        return Report(result, rate, measurement);
    }

    private MicroBatch[] Read()
    {
        BeginPhase(FaultPoint.Data, "reading the batch");
        state.Model.train();
        state.Gradients.Zero();
        var batches = new MicroBatch[plan.Batch.MicroSteps];
        for (long micro = 0; micro < batches.Length; micro++)
        {
            long[] sequences =
            [
                .. plan.Batch.Sequences(mesh.DataRank, micro).Select(index => state.SequencesConsumed + index),
            ];
            var (inputs, targets) = services.Reader.Read([.. sequences.Select(services.Order.WindowAt)], shard);
            batches[micro] = new MicroBatch(inputs, targets, sequences);
        }

        return batches;
    }

    // Returns this rank's sum of the losses.
    private double ForwardAndBackward(MicroBatch[] batches, double lossFactor)
    {
        Tensor lossFactorTensor = tensor(lossFactor, dtype: ScalarType.Float32);
        RandomStream stream = services.Dropout.Derive(state.Step);
        double lossSum = 0;
        for (int micro = 0; micro < batches.Length; micro++)
        {
            var (inputs, targets, sequences) = batches[micro];
            using var microScope = NewDisposeScope();
            DropoutContext? context =
                plan.Config.Model.Dropout > 0 ? new DropoutContext(stream, sequences, shard) : null;
            BeginPhase(FaultPoint.Forward, "forward");
            // Gradients are complete only after the last micro-batch.
            bool isLast = micro == batches.Length - 1;
            Tensor loss = state.Model.LossSum(inputs, targets, context, isLast ? OnGradientsReady : null);
            BeginPhase("backward");
            BackwardPass.Run(loss.mul(lossFactorTensor));
            lossSum += loss.to(float64).item<double>();
        }

        return lossSum;
    }

    private StepResult Reduce(double lossSum, long tokens, double scale)
    {
        BeginPhase("reducing gradients");
        state.Gradients.FinishReduce();
        (lossSum, double peak) = mesh.World.SumAndLargest(lossSum, state.Device.PeakBytes() ?? 0);
        double norm = state.Gradients.UnscaleAndClip(plan.Config.Optimizer.GradientClipping, scale);
        return new StepResult
        {
            Loss = lossSum / Math.Max(1, tokens),
            GradientNorm = norm,
            Tokens = tokens,
            LossScale = state.LossScaler is null ? null : scale,
            PeakMemoryBytes = peak > 0 ? (long)peak : null,
        };
    }

    // Every rank has the same bits of the result, so every rank takes the same branch.
    private void Update(StepResult result, double rate, CheckpointSaver? saver)
    {
        if (double.IsFinite(result.GradientNorm) && double.IsFinite(result.Loss))
        {
            BeginPhase(FaultPoint.Optimizer, "optimizer");
            saver?.AwaitSnapshot();
            state.Update(rate);
            state.LossScaler?.Succeed();
        }
        else if (state.LossScaler is { CanShrink: true } scaler)
        {
            scaler.Skip();
        }
        else
        {
            throw new AgreedUserException(
                $"Step {state.Step + 1} has loss {result.Loss} and gradient norm {result.GradientNorm}, so training "
                    + "cannot go on: lower optimizer.lr or lengthen optimizer.warmup_steps, and go on from the last "
                    + "checkpoint with --resume auto."
            );
        }
    }

    private StepMetrics Report(StepResult result, double rate, StepMeasurement measurement)
    {
        double seconds = measurement.Seconds;
        return new StepMetrics
        {
            Step = state.Step,
            Loss = result.Loss,
            GradientNorm = result.GradientNorm,
            LearningRate = rate,
            Tokens = state.TokensConsumed,
            TokensPerSecond = result.Tokens / seconds,
            StepSeconds = seconds,
            BytesSent = measurement.BytesSent,
            ExposedCommunicationSeconds = measurement.ExposedCommunicationSeconds,
            InFlightCommunicationSeconds = measurement.InFlightCommunicationSeconds,
            PeakMemoryBytes = result.PeakMemoryBytes,
            LossScale = result.LossScale,
            SkippedSteps = state.LossScaler?.SkippedSteps,
        };
    }

    // The activity is named where other ranks miss this one.
    private void BeginPhase(string activity) => mesh.World.Monitor.Activity = $"step {state.Step + 1}: {activity}";

    // LONGNET_FAULT may throw here, or end the process.
    private void BeginPhase(FaultPoint point, string activity)
    {
        BeginPhase(activity);
        services.Fault?.At(point, mesh.World.Rank, state.Step + 1);
    }

    // A block's gradients are reduced while backward computes those of the blocks before it.
    private void OnGradientsReady(int block)
    {
        services.Fault?.At(FaultPoint.Backward, mesh.World.Rank, state.Step + 1);
        state.Gradients.StartReduceOfBlock(block);
    }

    private static long CountValid(Tensor targets)
    {
        using var scope = NewDisposeScope();
        return targets.ne(IgnoredTarget).sum().item<long>();
    }

    // Tensors belong to the step's scope.
    private sealed record MicroBatch(Tensor Inputs, Tensor Targets, long[] Sequences);

    // What all ranks know of a step after its reduction.
    private sealed record StepResult
    {
        public required double Loss { get; init; }

        public required double GradientNorm { get; init; }

        public required long Tokens { get; init; }

        public required double? LossScale { get; init; }

        public required long? PeakMemoryBytes { get; init; }
    }
}
