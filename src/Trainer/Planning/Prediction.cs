using LongNet.Core;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Planning.Machines;

namespace LongNet.Trainer.Planning;

/// <summary>What a configuration comes to on a number of ranks of a machine.</summary>
/// <param name="Run">The run's shape.</param>
/// <param name="Machine">As each of the ranks has it.</param>
internal sealed record Prediction(
    PlannedRun Run,
    Machine Machine,
    ParameterCost Parameters,
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
        PlannedRun run = PlannedRun.Create(config, ranks);
        Machine share = machine.For(ranks, config.Runtime.Threads);
        ParameterCost parameters = ParameterCost.Of(run.Model);
        var attention = new AttentionCost(run);
        IReadOnlyList<CollectiveCost> collectives = CollectiveCost.Of(run, parameters, attention);
        MemoryCost memory = MemoryCost.Of(run, parameters, attention, share);
        return new Prediction(
            run,
            share,
            parameters,
            attention,
            Operations.Of(run, attention),
            collectives,
            memory,
            StepTime.Of(run, parameters, attention, collectives, memory, share)
        );
    }

    /// <summary>The same run with sequences of another length.</summary>
    public static RunConfig WithLength(RunConfig config, long length) =>
        config with
        {
            Training = config.Training with { SequenceLength = length },
        };
}
