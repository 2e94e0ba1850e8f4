using LongNet.Core;
using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.SequenceParallel;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Data;
using TorchSharp;

namespace LongNet.Trainer.Planning;

/// <summary>A run's shape on a number of ranks: what training would check before it starts, but for the text.</summary>
/// <param name="Config">The resolved configuration.</param>
/// <param name="Ranks">Ranks that would be started.</param>
/// <param name="DataRanks">Ranks along the batch.</param>
/// <param name="SequenceRanks">Ranks along the sequence.</param>
/// <param name="Batch">How a step's sequences are dealt out.</param>
internal sealed record PlannedRun(RunConfig Config, int Ranks, int DataRanks, int SequenceRanks, BatchPartition Batch)
{
    /// <summary>Bytes of a float32: parameters, gradients, moments, statistics.</summary>
    public const int SingleBytes = sizeof(float);

    /// <summary>The model's shape.</summary>
    public LongNetConfig Model { get; } = Config.Model.ToModel();

    /// <summary>Rows of the whole sequence.</summary>
    public long SequenceLength => Config.Training.SequenceLength;

    /// <summary>Which positions of a sequence every rank along the sequence holds.</summary>
    public SequenceLayout Layout => AllGatherSequenceParallel.LayoutOf(SequenceLength, SequenceRanks);

    /// <summary>Rows of every sequence that a rank holds.</summary>
    public long Rows => SequenceLength / SequenceRanks;

    /// <summary>
    /// Rows that a rank works on at once: those of all sequences of a micro-batch. N in docs/planning.md.
    /// </summary>
    public long LocalRows => Rows * Batch.MicroBatchSize;

    /// <summary>Bytes of an element of an activation. s in docs/planning.md.</summary>
    public int ElementBytes => Config.Precision.Compute == ComputePrecision.Float32 ? SingleBytes : 2;

    /// <summary>Target tokens of an optimizer step, over all ranks.</summary>
    public double TokensPerStep => (double)Config.Training.BatchSize * SequenceLength;

    /// <summary>Bytes of a tensor [local rows, channels] of the compute type.</summary>
    public double Activation(double channels) => LocalRows * channels * ElementBytes;

    /// <summary>Makes the shape, with the refusals of a run that is started so.</summary>
    /// <exception cref="UserException">Ranks, sequence, batch or positions do not fit; says what would.</exception>
    public static PlannedRun Create(RunConfig config, int ranks)
    {
        LongNetConfig model = config.Model.ToModel();
        var (data, sequence) = DeviceMesh.Resolve(config.Parallel.Data, config.Parallel.Sequence, ranks);
        SegmentShardingRules.Validate(model.Schedule, config.Training.SequenceLength, sequence);
        if (config.Model.Positions == PositionEncoding.XPos)
            RotaryPositions.ValidateDecay(
                model.Schedule,
                config.Training.SequenceLength,
                TypeOf(config.Precision.Compute)
            );
        return new PlannedRun(
            config,
            ranks,
            data,
            sequence,
            BatchPartition.Create(config.Training.BatchSize, data, config.Training.MicroBatchSize)
        );
    }

    private static torch.ScalarType TypeOf(ComputePrecision precision) =>
        precision switch
        {
            ComputePrecision.BFloat16 => torch.ScalarType.BFloat16,
            ComputePrecision.Float16 => torch.ScalarType.Float16,
            _ => torch.ScalarType.Float32,
        };
}
