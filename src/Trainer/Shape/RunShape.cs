using LongNet.Core;
using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Core.Sequences;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.SequenceParallel;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;

namespace LongNet.Trainer.Shape;

/// <summary>
/// The shape of a run: what follows from its configuration and the number of ranks, without the text, the machine or a
/// collective. A run and its prediction share it.
/// </summary>
/// <param name="Config">The configuration, with defaults and command-line overrides applied.</param>
/// <param name="Model">The model's shape.</param>
/// <param name="DataRanks">Ranks along the batch.</param>
/// <param name="SequenceRanks">Ranks along the sequence.</param>
/// <param name="Batch">How a step's sequences are divided among ranks and micro-batches.</param>
internal sealed record RunShape(
    RunConfig Config,
    LongNetConfig Model,
    int DataRanks,
    int SequenceRanks,
    BatchPartition Batch
)
{
    /// <summary>Bytes of a float32: parameters, gradients, moments, log-sum-exps, what norms keep.</summary>
    public const int Float32Bytes = sizeof(float);

    /// <summary>All ranks.</summary>
    public int Ranks => DataRanks * SequenceRanks;

    /// <summary>How many parameters the model has.</summary>
    public ParameterCounts Parameters => ParameterCounts.Of(Model);

    /// <summary>Tokens of a sequence, over all its ranks.</summary>
    public long SequenceLength => Config.Training.SequenceLength;

    /// <summary>Which positions of a sequence every rank along the sequence holds.</summary>
    public SequenceLayout Layout => AllGatherSequenceParallel.LayoutOf(SequenceLength, SequenceRanks);

    /// <summary>Rows of every sequence that a rank has.</summary>
    public long TokensPerRank => SequenceLength / SequenceRanks;

    /// <summary>
    /// Rows that a rank works on at once: those of all sequences of a micro-batch. N in docs/planning.md.
    /// </summary>
    public long LocalTokens => TokensPerRank * Batch.MicroBatchSize;

    /// <summary>Bytes of an element of an activation. s in docs/planning.md.</summary>
    public int ElementBytes => Config.Precision.Compute == ComputePrecision.Float32 ? Float32Bytes : 2;

    /// <summary>Whether activations are smaller than float32, so that matrices are rounded before products.</summary>
    public bool IsHalfPrecision => ElementBytes < Float32Bytes;

    /// <summary>Whether backward recomputes blocks.</summary>
    public bool Recomputes => Config.Memory.Recompute != Recompute.None;

    /// <summary>Target tokens of an optimizer step, over all ranks.</summary>
    public double TokensPerStep => (double)Config.Training.BatchSize * SequenceLength;

    /// <summary>Bytes of a tensor [local rows, channels] of the compute type.</summary>
    public double ActivationBytes(double channels) => LocalTokens * channels * ElementBytes;

    /// <summary>Derives the shape and checks that its parts fit together.</summary>
    /// <param name="config">The configuration, with defaults and command-line overrides applied.</param>
    /// <param name="ranks">How many are, or would be, started.</param>
    /// <exception cref="UserException">Ranks, sequence, batch or positions do not fit; says what would.</exception>
    public static RunShape Create(RunConfig config, int ranks)
    {
        LongNetConfig model = config.Model.ToModel();
        long sequenceLength = config.Training.SequenceLength;
        var (data, sequence) = DeviceMesh.Resolve(config.Parallel.Data, config.Parallel.Sequence, ranks);
        SegmentShardingRules.Validate(model.Schedule, sequenceLength, sequence);
        if (model.Positions == PositionEncoding.XPos)
            RotaryPositions.ValidateDecay(model.Schedule, sequenceLength, config.Precision.ToType());
        var batch = BatchPartition.Create(config.Training.BatchSize, data, config.Training.MicroBatchSize);
        return new RunShape(config, model, data, sequence, batch);
    }
}
