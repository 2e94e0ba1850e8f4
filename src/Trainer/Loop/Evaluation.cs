using LongNet.Core.Attention;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Data;
using LongNet.Trainer.Reporting;
using static TorchSharp.torch;

namespace LongNet.Trainer.Loop;

/// <summary>
/// The loss on held-out windows, spread evenly over those that there are; the same on any number of ranks.
/// </summary>
/// <param name="plan">The run.</param>
/// <param name="mesh">The ranks. Not owned.</param>
/// <param name="state">The model. Not owned.</param>
/// <param name="reader">The corpus. Not owned.</param>
internal sealed class Evaluation(RunPlan plan, DeviceMesh mesh, TrainingState state, BatchReader reader)
{
    /// <summary>Evaluates the model as it stands. Collective over the world.</summary>
    public EvaluationMetrics Run()
    {
        using var noGradient = no_grad();
        state.Model.eval();
        long held = plan.Split.ValidationWindows,
            sequences = Math.Min(plan.Config.Evaluation.Sequences, held);
        long[] own = [.. Windows(held, sequences).Where((_, place) => place % mesh.DataSize == mesh.DataRank)];
        SequenceShard shard = plan.Layout.ShardOf(mesh.SequenceRank);
        double lossSum = 0;
        long bytes = 0;
        foreach (long[] windows in own.Chunk(checked((int)plan.Batch.MicroBatchSize)))
        {
            using var scope = NewDisposeScope();
            var (inputs, targets) = reader.Read(windows, shard);
            bytes += CountBytes(targets);
            lossSum += state.Model.LossSum(inputs, targets).to(float64).item<double>();
        }

        double tokens = sequences * plan.Config.Training.SequenceLength;
        double loss = mesh.World.Sum(lossSum) / tokens;
        return plan.Corpus.BytesOfTokens is null
            ? new EvaluationMetrics(state.Step, loss)
            : new EvaluationMetrics(state.Step, loss, mesh.World.Sum(bytes) / tokens);
    }

    // Of the very tokens whose loss is summed.
    private long CountBytes(Tensor targets)
    {
        if (plan.Corpus.BytesOfTokens is not { } bytesOfTokens)
            return 0;
        long sum = 0;
        foreach (long target in targets.data<long>())
            sum += bytesOfTokens.Span[(int)target];
        return sum;
    }

    private IEnumerable<long> Windows(long held, long sequences)
    {
        for (long place = 0; place < sequences; place++)
            yield return plan.Split.TrainingWindows + place * held / sequences;
    }
}
