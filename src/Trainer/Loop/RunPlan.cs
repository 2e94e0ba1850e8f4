using LongNet.Core;
using LongNet.Core.Sequences;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;
using LongNet.Trainer.Shape;

namespace LongNet.Trainer.Loop;

/// <summary>Everything about a run that is known before its ranks exchange anything: its shape and its text.</summary>
internal sealed class RunPlan
{
    private RunPlan(RunShape shape, ITokenCorpus corpus, CorpusSplit split)
    {
        Shape = shape;
        Corpus = corpus;
        Split = split;
        Fingerprint = FingerprintOf(shape.Config, corpus);
    }

    /// <summary>What follows from the configuration and the number of ranks.</summary>
    public RunShape Shape { get; }

    /// <summary>The text, as tokens.</summary>
    public ITokenCorpus Corpus { get; }

    /// <summary>Training and held-out windows.</summary>
    public CorpusSplit Split { get; }

    /// <summary>
    /// Differs where plans differ, so that ranks which read different files notice. The folders in which the text and
    /// the weights lie do not count.
    /// </summary>
    public string Fingerprint { get; }

    /// <summary>The configuration, with defaults and command-line overrides applied.</summary>
    public RunConfig Config => Shape.Config;

    /// <inheritdoc cref="RunShape.DataRanks"/>
    public int DataRanks => Shape.DataRanks;

    /// <inheritdoc cref="RunShape.SequenceRanks"/>
    public int SequenceRanks => Shape.SequenceRanks;

    /// <inheritdoc cref="RunShape.Batch"/>
    public BatchPartition Batch => Shape.Batch;

    /// <inheritdoc cref="RunShape.Layout"/>
    public SequenceLayout Layout => Shape.Layout;

    /// <inheritdoc cref="RunShape.TokensPerRank"/>
    public long TokensPerRank => Shape.TokensPerRank;

    /// <summary>Opens every rank's plan and checks that all are the same. Collective.</summary>
    /// <param name="world">All ranks.</param>
    /// <param name="load">Reads the configuration, on every rank.</param>
    /// <exception cref="AgreedUserException">A rank's configuration or text has an error, or is not that of rank
    /// 0.</exception>
    public static RunPlan Agree(ProcessGroup world, Func<RunConfig> load)
    {
        RunPlan plan = RankConsensus.Run(world, () => Open(load(), world.Size));
        string ofRoot = ObjectCollectives.BroadcastText(world, plan.Fingerprint, 0);
        RankConsensus.Run(world, () =>
        {
            if (plan.Fingerprint != ofRoot)
            {
                throw new UserException(
                    $"the configuration or the text here ({plan.Corpus.Fingerprint}) is not that of rank 0: "
                        + "give every machine the same files."
                );
            }
        });
        return plan;
    }

    /// <summary>
    /// Derives the shape, opens the text that the configuration names, and splits it. Reads files; no collective.
    /// </summary>
    /// <exception cref="UserException">Configuration, ranks and text do not fit; says what would.</exception>
    public static RunPlan Open(RunConfig config, int ranks)
    {
        var shape = RunShape.Create(config, ranks);
        ITokenCorpus corpus = TokenCorpora.Open(config);
        CorpusSplit split = CorpusSplit.Create(corpus.Tokens, shape.SequenceLength, config.Data.ValidationFraction);
        if (config.Evaluation.EverySteps > 0 && split.ValidationWindows == 0)
        {
            throw new UserException(
                "evaluation.every_steps asks for evaluations, but data.validation_fraction is 0, so "
                    + "nothing is held out: set it to 0.05, or every_steps to 0."
            );
        }

        return new RunPlan(shape, corpus, split);
    }

    private static string FingerprintOf(RunConfig config, ITokenCorpus corpus) =>
        corpus.Fingerprint
        + ConfigurationText.ToYaml(
            config with
            {
                Data = config.Data with { Path = [], Tokenizer = corpus.Tokenizer },
                Model = config.Model with { InitialWeights = config.Model.InitialWeights is null ? null : "given" },
            }
        );
}
