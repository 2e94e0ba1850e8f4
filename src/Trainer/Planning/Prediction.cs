using LongNet.Core;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Planning.Machines;
using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Planning;

/// <summary>What a configuration comes to on a number of ranks of a machine.</summary>
/// <param name="Run">The run's shape.</param>
/// <param name="Machine">As each of the ranks has it.</param>
internal sealed record Prediction(
    RunShape Run,
    Machine Machine,
    AttentionCost Attention,
    Operations Operations,
    IReadOnlyList<CollectiveCost> Collectives,
    MemoryCost Memory,
    StepTime Time
)
{
    /// <summary>Payload that rank 0 sends in a step.</summary>
    public double SentBytes => Collectives.Sum(collective => collective.SentBytes);

    public double TokensPerSecond => Run.TokensPerStep / Time.Seconds;

    public double TrainingSeconds => Run.Config.Training.Steps * Time.Seconds;

    /// <summary>Whether the memory of a rank suffices.</summary>
    public bool Fits(double? memory = null) => Memory.Total <= (memory ?? Machine.MemoryPerRank);

    /// <exception cref="UserException">The configuration does not fit the ranks; says what would.</exception>
    public static Prediction Of(RunConfig config, int ranks, Machine machine)
    {
        var run = RunShape.Create(config, ranks);
        Machine share = machine.For(ranks, config.Runtime.Threads);
        var attention = new AttentionCost(run);
        IReadOnlyList<CollectiveCost> collectives = CollectiveCost.Of(run, attention);
        MemoryCost memory = MemoryCost.Of(run, attention, share);
        return new Prediction(
            run,
            share,
            attention,
            Operations.Of(run, attention),
            collectives,
            memory,
            StepTime.Of(run, attention, collectives, memory, share)
        );
    }

    /// <summary>The same run with sequences of another length.</summary>
    public static RunConfig WithLength(RunConfig config, long length) =>
        config with
        {
            Training = config.Training with { SequenceLength = length },
        };
}
