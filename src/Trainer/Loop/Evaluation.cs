using LongNet.Core;
using LongNet.Core.Devices;
using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Data;
using LongNet.Trainer.Reporting;
using static TorchSharp.torch;

namespace LongNet.Trainer.Loop;

/// <summary>
/// The loss of a model on held-out windows, which are spread evenly over all of them; the same on any number of ranks.
/// </summary>
/// <param name="plan">The run.</param>
/// <param name="mesh">The ranks. Not owned.</param>
/// <param name="model">The model. Not owned.</param>
/// <param name="reader">The corpus. Not owned.</param>
internal sealed class Evaluation(RunPlan plan, DeviceMesh mesh, TrainedModel model, BatchReader reader)
{
    /// <summary>Evaluates the present weights. Collective over the world.</summary>
    /// <exception cref="UserException">The device has no memory left.</exception>
    public EvaluationMetrics Run() => DeviceMemoryError.Explain(plan, model.Device, Evaluate);

    private EvaluationMetrics Evaluate()
    {
        using var noGradient = no_grad();
        model.Module.eval();
        long heldOut = plan.Split.ValidationWindows,
            sequences = Math.Min(plan.Config.Evaluation.Sequences, heldOut);
        long[] own = [.. Windows(heldOut, sequences).Where((_, place) => place % mesh.DataSize == mesh.DataRank)];
        SequenceShard shard = plan.Layout.ShardOf(mesh.SequenceRank);
        using Tensor lossSum = zeros([1], dtype: ScalarType.Float64, device: model.Device.Device);
        long bytes = 0;
        foreach (long[] windows in own.Chunk(checked((int)plan.Batch.MicroBatchSize)))
        {
            using var scope = NewDisposeScope();
            var (inputs, targets) = reader.Read(windows, shard);
            bytes += CountBytes(targets);
            // Every token of a window has a next one.
            Tensor batchLoss = model.Module.LossSum(
                model.Device.Upload(inputs),
                model.Device.Upload(targets),
                hasIgnoredTargets: false
            );
            lossSum.add_(batchLoss.to(float64), Scalars.One);
        }

        double tokens = sequences * plan.Config.Training.SequenceLength;
        double loss = mesh.World.Sum(DeviceRead.Doubles(lossSum)[0]) / tokens;
        return plan.Corpus.BytesOfTokens is null
            ? new EvaluationMetrics(model.Step, loss)
            : new EvaluationMetrics(model.Step, loss, mesh.World.Sum(bytes) / tokens);
    }

    // Counts only the tokens whose loss is summed, so that the mean is over the same text.
    private long CountBytes(Tensor targets)
    {
        if (plan.Corpus.BytesOfTokens is not { } bytesOfTokens)
            return 0;
        long sum = 0;
        foreach (long target in targets.data<long>())
            sum += bytesOfTokens.Span[(int)target];
        return sum;
    }

    private IEnumerable<long> Windows(long heldOut, long sequences)
    {
        for (long place = 0; place < sequences; place++)
            yield return plan.Split.TrainingWindows + place * heldOut / sequences;
    }
}
