using LongNet.Distributed;
using LongNet.Trainer.Data;
using LongNet.Trainer.Reporting;
using static TorchSharp.torch;

namespace LongNet.Trainer.Loop;

/// <summary>The loss on held-out windows, spread evenly over those that there are; the same on any number of ranks.</summary>
/// <param name="plan">The run.</param>
/// <param name="mesh">The ranks. Not owned.</param>
/// <param name="state">The model. Not owned.</param>
/// <param name="reader">The corpus. Not owned.</param>
public sealed class Evaluation(RunPlan plan, DeviceMesh mesh, TrainingState state, BatchReader reader)
{
    /// <summary>Evaluates the model as it stands. Collective over the world.</summary>
    public EvaluationMetrics Run()
    {
        using var noGradient = no_grad();
        state.Model.eval();
        long held = plan.Split.ValidationWindows, sequences = Math.Min(plan.Config.Evaluation.Sequences, held);
        long[] own = [.. Windows(held, sequences).Where((_, place) => place % mesh.DataSize == mesh.DataRank)];
        double lossSum = 0;
        foreach (long[] windows in own.Chunk(checked((int)plan.Batch.MicroBatchSize)))
        {
            using var scope = NewDisposeScope();
            var (inputs, targets) = reader.Read(windows, mesh.SequenceRank * plan.RowsPerRank, plan.RowsPerRank);
            lossSum += state.Model.LossSum(inputs, targets).to(float64).item<double>();
        }

        return new EvaluationMetrics(state.Step, mesh.World.Sum(lossSum) / (sequences * plan.Config.Training.SequenceLength));
    }

    private IEnumerable<long> Windows(long held, long sequences)
    {
        for (long place = 0; place < sequences; place++)
            yield return plan.Split.TrainingWindows + place * held / sequences;
    }
}
