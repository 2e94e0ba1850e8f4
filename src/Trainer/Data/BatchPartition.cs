using LongNet.Core;

namespace LongNet.Trainer.Data;

/// <summary>
/// How the sequences of one optimizer step are distributed. The batch is cut into one part of consecutive sequences per
/// data rank, all of the same size and in rank order. A rank computes its part micro-batch by micro-batch. Every mesh
/// sees the same sequences in a step.
/// </summary>
/// <param name="BatchSize">Sequences per step over all ranks.</param>
/// <param name="DataRanks">Ranks along the batch.</param>
/// <param name="MicroBatchSize">Sequences per rank at once.</param>
internal sealed record BatchPartition(long BatchSize, int DataRanks, long MicroBatchSize)
{
    /// <summary>Forward and backward passes per step.</summary>
    public long MicroSteps => BatchSize / DataRanks / MicroBatchSize;

    /// <exception cref="UserException">The batch does not divide; names what would.</exception>
    public static BatchPartition Create(long batchSize, int dataRanks, long? microBatchSize)
    {
        if (batchSize % dataRanks != 0)
        {
            throw new UserException(
                $"training.batch_size ({batchSize}) is not a multiple of the {dataRanks} data-parallel ranks: "
                    + $"set it to {(batchSize / dataRanks + 1) * dataRanks}, "
                    + "or choose another parallel.data."
            );
        }

        long sequencesPerRank = batchSize / dataRanks;
        long micro = microBatchSize ?? sequencesPerRank;
        return sequencesPerRank % micro == 0
            ? new BatchPartition(batchSize, dataRanks, micro)
            : throw new UserException(
                $"training.micro_batch_size ({micro}) does not divide the {sequencesPerRank} sequences that each of "
                    + $"{dataRanks} data-parallel ranks has of training.batch_size {batchSize}."
            );
    }

    /// <summary>Indices within the step's batch, 0 … BatchSize − 1, that a rank computes at a micro-step.</summary>
    public IReadOnlyList<long> Sequences(int dataRank, long microStep)
    {
        long first = dataRank * (BatchSize / DataRanks) + microStep * MicroBatchSize;
        return [.. Enumerable.Range(0, checked((int)MicroBatchSize)).Select(offset => first + offset)];
    }
}
