using LongNet.Core;
using LongNet.Core.Devices;
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
internal sealed class TrainingStep : IDisposable
{
    private static readonly Scalar IgnoredTarget = LongNetLanguageModel.IgnoredTarget.ToScalar();

    private readonly RunPlan plan;
    private readonly DeviceMesh mesh;
    private readonly TrainingState state;
    private readonly StepServices services;
    private readonly SequenceShard shard;

    // The next step's, which a device receives while it computes the present one.
    private StepBatches? prefetched;

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
    /// <exception cref="UserException">The device has no memory left.</exception>
    public StepMetrics Run(CheckpointSaver? saver = null) =>
        DeviceMemoryError.Explain(plan, state.Device, () => RunStep(saver));

    public void Dispose() => prefetched?.Dispose();

    private StepMetrics RunStep(CheckpointSaver? saver)
    {
        var measurement = new StepMeasurement(mesh.World.Monitor, () => state.BytesSent, services.Clock);
        services.TrimPolicy.BeforeStep(state.Device.AllocatedBytes());
        using var scope = NewDisposeScope();
        using StepBatches batches = NextBatches();
        // The number of valid targets of the complete step comes first: it scales every rank's and micro-batch's part
        // of the loss.
        long tokens = (long)mesh.World.Sum(batches.Micro.Sum(batch => batch.ValidTargets));
        double scale = state.LossScaler?.Scale ?? 1;
        Tensor lossSum = ForwardAndBackward(batches.Micro, scale / Math.Max(1, tokens));
        // The device is still computing: what is done here takes no time of the step.
        if (!state.Device.IsCpu)
            prefetched = Read(state.SequencesConsumed + plan.Batch.BatchSize);
        StepResult result = Reduce(lossSum, tokens, scale);
        double rate = services.LearningRate.RateAt(state.Step + 1);
        Update(result, rate, saver);
        if (services.TrimPolicy.ShouldTrim(state.Device.AllocatedBytes()))
            state.Device.TrimMemory();
        state.Advance(plan.Batch.BatchSize, tokens);
        return Report(result, rate, measurement);
    }

    private StepBatches NextBatches()
    {
        BeginPhase(FaultPoint.Data, "reading the batch");
        state.Model.train();
        state.Gradients.Zero();
        if (Interlocked.Exchange(ref prefetched, null) is not { } ready)
            return Read(state.SequencesConsumed);
        if (ready.FirstSequence == state.SequencesConsumed)
            return ready;
        ready.Dispose();
        return Read(state.SequencesConsumed);
    }

    // The batch of the step that begins with a sequence.
    private StepBatches Read(long firstSequence)
    {
        using var scope = NewDisposeScope();
        var batches = new MicroBatch[plan.Batch.MicroSteps];
        for (long micro = 0; micro < batches.Length; micro++)
        {
            long[] sequences =
            [
                .. plan.Batch.Sequences(mesh.DataRank, micro).Select(index => firstSequence + index),
            ];
            var (inputs, targets) = services.Reader.Read([.. sequences.Select(services.Order.WindowAt)], shard);
            batches[micro] = new MicroBatch
            {
                Inputs = state.Device.Upload(inputs).DetachFromDisposeScope(),
                Targets = state.Device.Upload(targets).DetachFromDisposeScope(),
                Sequences = sequences,
                ValidTargets = CountValid(targets),
            };
        }

        return new StepBatches(firstSequence, batches);
    }

    // Returns this rank's sum of the losses, which its device may still be computing. In the step's scope.
    private Tensor ForwardAndBackward(MicroBatch[] batches, double lossFactor)
    {
        // Without dimensions, so that it may come from the CPU whatever the device is.
        Tensor lossFactorTensor = tensor(lossFactor, dtype: ScalarType.Float32, device: CPU);
        RandomStream stream = services.Dropout.Derive(state.Step);
        Tensor lossSum = zeros([1], dtype: ScalarType.Float64, device: state.Device.Device);
        for (int micro = 0; micro < batches.Length; micro++)
        {
            MicroBatch batch = batches[micro];
            using var microScope = NewDisposeScope();
            DropoutContext? context =
                plan.Config.Model.Dropout > 0 ? new DropoutContext(stream, batch.Sequences, shard) : null;
            BeginPhase(FaultPoint.Forward, "forward");
            // Gradients are complete only after the last micro-batch.
            bool isLast = micro == batches.Length - 1;
            Tensor loss = state.Model.LossSum(
                batch.Inputs,
                batch.Targets,
                context,
                isLast ? OnGradientsReady : null,
                hasIgnoredTargets: batch.ValidTargets < batch.Targets.NumberOfElements
            );
            BeginPhase("backward");
            BackwardPass.Run(loss.mul(lossFactorTensor));
            lossSum.add_(loss.to(float64), Scalars.One);
        }

        return lossSum;
    }

    private StepResult Reduce(Tensor ownLossSum, long tokens, double scale)
    {
        BeginPhase("reducing gradients");
        state.Gradients.FinishReduce();
        // The step's only wait for the device: the loss and what the gradients' norm follows from, together.
        double[] values = DeviceRead.Doubles(cat([ownLossSum, state.Gradients.PieceNorms()]));
        (double lossSum, double peak) = mesh.World.SumAndLargest(values[0], state.Device.PeakBytes() ?? 0);
        double norm = state.Gradients.UnscaleAndClip(values.AsSpan(1), plan.Config.Optimizer.GradientClipping, scale);
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

    private sealed record StepBatches(long FirstSequence, MicroBatch[] Micro) : IDisposable
    {
        public void Dispose()
        {
            foreach (MicroBatch batch in Micro)
            {
                batch.Inputs.Dispose();
                batch.Targets.Dispose();
            }
        }
    }

    private sealed record MicroBatch
    {
        /// <summary>On the device, as the targets.</summary>
        public required Tensor Inputs { get; init; }

        public required Tensor Targets { get; init; }

        public required long[] Sequences { get; init; }

        public required long ValidTargets { get; init; }
    }

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
