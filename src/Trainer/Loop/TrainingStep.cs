using System.Diagnostics;
using LongNet.Core.Model;
using LongNet.Core.Numerics;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using LongNet.Trainer.Data;
using LongNet.Trainer.Platform;
using LongNet.Trainer.Reporting;
using static TorchSharp.torch;

namespace LongNet.Trainer.Loop;

/// <summary>
/// One optimizer step: every micro-batch forward and backward, gradients summed over all ranks, clipped, applied. The
/// loss is the sum over all tokens of the step divided by the number of valid ones, wherever they were computed.
/// </summary>
/// <remarks>
/// In float16 the loss is scaled for backward (<see cref="LossScaler"/>). A step that overflows changes neither
/// parameters nor optimizer state, but it is a step as any other for the learning rate and for the data.
/// </remarks>
internal sealed class TrainingStep
{
    private static readonly TorchSharp.Scalar IgnoredTarget = LongNetLanguageModel.IgnoredTarget;

    private readonly RunPlan plan;
    private readonly DeviceMesh mesh;
    private readonly TrainingState state;
    private readonly BatchReader reader;
    private readonly SampleOrder order;
    private readonly LearningRateSchedule schedule;
    private readonly RandomStream dropout;
    private readonly FaultInjection? drill;
    private readonly Dictionary<int, int> bucketOfBlock;

    private readonly MallocTrimPolicy freed;

    /// <param name="plan">The run.</param>
    /// <param name="mesh">The ranks. Not owned.</param>
    /// <param name="state">What a step changes. Not owned.</param>
    /// <param name="reader">The corpus. Not owned.</param>
    /// <param name="drill">A failure on purpose; null for none.</param>
    public TrainingStep(
        RunPlan plan,
        DeviceMesh mesh,
        TrainingState state,
        BatchReader reader,
        FaultInjection? drill = null
    )
    {
        this.plan = plan;
        this.mesh = mesh;
        this.state = state;
        this.reader = reader;
        this.drill = drill;
        freed = new MallocTrimPolicy(plan.Config.Runtime.Allocator, plan.Config.Memory.Recompute);
        bucketOfBlock = state
            .Gradients.Layout.Buckets.Select((bucket, b) => (bucket, b))
            .Where(entry => entry.bucket.Layer is not null)
            .ToDictionary(entry => entry.bucket.Layer!.Value, entry => entry.b);
        order = new SampleOrder(plan.Split.TrainingWindows, plan.Config.Seed);
        schedule = LearningRateSchedule.From(plan.Config.Optimizer);
        dropout = new RandomStream(0).Derive(plan.Config.Seed).Derive("dropout");
    }

    /// <summary>Does the next step. Collective over the world.</summary>
    /// <returns>What it tells, but for what saving has cost.</returns>
    /// <exception cref="AgreedUserException">The gradient is not finite, and no smaller scale could mend it; parameters
    /// are left as they were.</exception>
    public StepMetrics Run()
    {
        var clock = Stopwatch.StartNew();
        freed.BeforeStep(state.Device.AllocatedBytes());
        long sentBefore = state.BytesSent;
        CollectiveMonitor monitor = mesh.World.Monitor;
        double waitedBefore = monitor.ExposedCommunicationSeconds,
            transferredBefore = monitor.CommunicationSeconds;
        using var scope = NewDisposeScope();
        At(FaultPoint.Data, "reading the batch");
        state.Model.train();
        state.Gradients.Zero();

        var batches = new List<(Tensor Inputs, Tensor Targets, long[] Sequences)>();
        long valid = 0;
        for (long micro = 0; micro < plan.Batch.MicroSteps; micro++)
        {
            long[] sequences =
            [
                .. plan.Batch.Sequences(mesh.DataRank, micro).Select(place => state.SequencesConsumed + place),
            ];
            var (inputs, targets) = reader.Read(
                [.. sequences.Select(order.WindowAt)],
                mesh.SequenceRank * plan.RowsPerRank,
                plan.RowsPerRank
            );
            batches.Add((inputs, targets, sequences));
            valid += CountValid(targets);
        }

        // The number of valid targets of the whole step comes first: it scales every rank's and micro-batch's part of
        // the loss.
        long tokens = (long)mesh.World.Sum(valid);
        LossScaler? scaler = state.LossScaler;
        double scale = scaler?.Scale ?? 1;
        Tensor share = tensor(scale / Math.Max(1, tokens), dtype: ScalarType.Float32);
        RandomStream stream = dropout.Derive(state.Step);
        double lossSum = 0;
        long left = batches.Count;
        foreach (var (inputs, targets, sequences) in batches)
        {
            using var microScope = NewDisposeScope();
            DropoutContext? context =
                plan.Config.Model.Dropout > 0
                    ? new DropoutContext(stream, sequences, mesh.SequenceRank * plan.RowsPerRank)
                    : null;
            At(FaultPoint.Forward, "forward");
            // Only the last micro-batch completes them.
            state.Model.BlockGradientsComplete = --left == 0 ? OnBlockGradientsComplete : null;
            Tensor loss = state.Model.LossSum(inputs, targets, context);
            At(null, "backward");
            BackwardPass.Run(loss.mul(share));
            lossSum += loss.to(float64).item<double>();
        }

        state.Model.BlockGradientsComplete = null;
        At(null, "reducing gradients");
        state.Gradients.FinishReduce();
        (lossSum, double peak) = mesh.World.SumAndLargest(lossSum, state.Device.PeakBytes() ?? 0);
        double norm = state.Gradients.Clip(plan.Config.Optimizer.GradientClipping, scale);
        double mean = lossSum / Math.Max(1, tokens);
        double rate = schedule.RateAt(state.Step + 1);
        // Every rank holds the same bits here, so every rank goes the same way.
        if (double.IsFinite(norm) && double.IsFinite(mean))
        {
            At(FaultPoint.Optimizer, "optimizer");
            state.Update(rate);
            scaler?.Succeed();
        }
        else if (scaler is { CanShrink: true })
        {
            scaler.Skip();
        }
        else
        {
            throw new AgreedUserException(
                $"Step {state.Step + 1} has loss {mean} and gradient norm {norm}, so training cannot go "
                    + "on: lower optimizer.lr or lengthen "
                    + $"optimizer.warmup_steps, and go on from the last checkpoint with --resume auto."
            );
        }

        if (freed.ShouldTrim(state.Device.AllocatedBytes()))
            state.Device.TrimMemory();
        state.Advance(plan.Batch.BatchSize, tokens);
        double seconds = clock.Elapsed.TotalSeconds;
        return new StepMetrics(
            state.Step,
            mean,
            norm,
            rate,
            state.TokensConsumed,
            tokens / seconds,
            seconds,
            state.BytesSent - sentBefore,
            monitor.ExposedCommunicationSeconds - waitedBefore,
            monitor.CommunicationSeconds - transferredBefore,
            CheckpointStallSeconds: 0
        )
        {
            PeakMemoryBytes = peak > 0 ? (long)peak : null,
            LossScale = scaler is null ? null : scale,
            SkippedSteps = scaler?.SkippedSteps,
        };
    }

    // The activity is told where a rank is missed.
    private void At(FaultPoint? place, string activity)
    {
        mesh.World.Monitor.Activity = $"step {state.Step + 1}: {activity}";
        if (place is { } reached)
            drill?.At(reached, mesh.World.Rank, state.Step + 1);
    }

    // A block's gradients travel while backward computes those of the blocks before it.
    private void OnBlockGradientsComplete(int block)
    {
        drill?.At(FaultPoint.Backward, mesh.World.Rank, state.Step + 1);
        state.Gradients.StartReduce(bucketOfBlock[block]);
    }

    private static long CountValid(Tensor targets)
    {
        using var scope = NewDisposeScope();
        return targets.ne(IgnoredTarget).sum().item<long>();
    }
}
