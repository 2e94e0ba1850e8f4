using LongNet.Core;
using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.SequenceParallel;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;

namespace LongNet.Trainer.Loop;

/// <summary>Everything about a run that is known before the first collective, and alike on every rank.</summary>
/// <param name="Config">The resolved configuration.</param>
/// <param name="DataRanks">Ranks along the batch.</param>
/// <param name="SequenceRanks">Ranks along the sequence.</param>
/// <param name="Corpus">The text, as tokens.</param>
/// <param name="Split">Training and held-out windows.</param>
/// <param name="Batch">How a step's sequences are dealt out.</param>
internal sealed record RunPlan(
    RunConfig Config,
    int DataRanks,
    int SequenceRanks,
    ITokenCorpus Corpus,
    CorpusSplit Split,
    BatchPartition Batch
)
{
    /// <summary>Rows of every sequence that a rank holds.</summary>
    public long RowsPerRank => Config.Training.SequenceLength / SequenceRanks;

    /// <summary>
    /// Tells plans apart, so that ranks which read different files notice. Where the text and the weights lie does not
    /// count.
    /// </summary>
    public string Fingerprint =>
        Corpus.Fingerprint
        + ConfigurationText.ToYaml(
            Config with
            {
                Data = Config.Data with { Path = [], Tokenizer = Corpus.Tokenizer },
                Model = Config.Model with { InitialWeights = Config.Model.InitialWeights is null ? null : "given" },
            }
        );

    /// <summary>Makes every rank's plan and sees that they are the same one. Collective.</summary>
    /// <param name="world">All ranks.</param>
    /// <param name="load">Reads the configuration, on every rank.</param>
    /// <exception cref="AgreedUserException">A rank's configuration or text is mistaken, or another than rank
    /// 0's.</exception>
    public static RunPlan Agree(ProcessGroup world, Func<RunConfig> load)
    {
        RunPlan plan = RankConsensus.Run(world, () => Create(load(), world.Size));
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

    /// <summary>Checks the configuration against the ranks and the corpus. No collective.</summary>
    /// <exception cref="UserException">They do not fit; says what would.</exception>
    public static RunPlan Create(RunConfig config, int ranks)
    {
        var (data, sequence) = DeviceMesh.Resolve(config.Parallel.Data, config.Parallel.Sequence, ranks);
        SegmentShardingRules.Validate(config.Model.ToModel().Schedule, config.Training.SequenceLength, sequence);
        if (config.Model.Positions == PositionEncoding.XPos)
            RotaryPositions.ValidateDecay(
                config.Model.ToModel().Schedule,
                config.Training.SequenceLength,
                config.Precision.ToType()
            );
        BatchPartition batch = BatchPartition.Create(config.Training.BatchSize, data, config.Training.MicroBatchSize);
        ITokenCorpus corpus = TokenCorpora.Open(config);
        CorpusSplit split = CorpusSplit.Create(
            corpus.Tokens,
            config.Training.SequenceLength,
            config.Data.ValidationFraction
        );
        if (config.Evaluation.EverySteps > 0 && split.ValidationWindows == 0)
        {
            throw new UserException(
                "evaluation.every_steps asks for evaluations, but data.validation_fraction is 0, so "
                    + "nothing is held out: set it to 0.05, or every_steps to 0."
            );
        }

        return new RunPlan(config, data, sequence, corpus, split, batch);
    }
}
