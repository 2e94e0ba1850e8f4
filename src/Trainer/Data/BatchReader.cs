using LongNet.Core.Sequences;
using static TorchSharp.torch;

namespace LongNet.Trainer.Data;

/// <summary>
/// Reads this rank's part of windows. Targets are shifted before sharding, so a range of ℓ positions reads ℓ + 1 tokens
/// and no other.
/// </summary>
/// <param name="source">The corpus. Not owned.</param>
/// <param name="sequenceLength">N, tokens between windows' starts.</param>
internal sealed class BatchReader(ITokenSource source, long sequenceLength)
{
    /// <param name="windows">The batch.</param>
    /// <param name="shard">The positions within a window that this rank holds.</param>
    /// <returns>Inputs and targets, each [windows, tokens of the shard], int64. Owned by the caller.</returns>
    public (Tensor Inputs, Tensor Targets) Read(IReadOnlyList<long> windows, SequenceShard shard)
    {
        var inputs = new long[windows.Count * shard.Length];
        var targets = new long[windows.Count * shard.Length];
        long next = 0;
        foreach (long window in windows)
        {
            foreach (PositionRange range in shard.Ranges)
            {
                var tokens = new int[range.Length + 1];
                source.Read(window * sequenceLength + range.First, tokens);
                for (long i = 0; i < range.Length; i++, next++)
                {
                    inputs[next] = tokens[i];
                    targets[next] = tokens[i + 1];
                }
            }
        }

        long[] shape = [windows.Count, shard.Length];
        return (OnCpu(inputs), OnCpu(targets));

        Tensor OnCpu(long[] values) => tensor(values, shape, dtype: ScalarType.Int64, device: CPU);
    }
}
