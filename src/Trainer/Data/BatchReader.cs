using static TorchSharp.torch;

namespace LongNet.Trainer.Data;

/// <summary>
/// Reads this rank's part of windows. Targets are shifted before sharding, so a shard of ℓ rows reads ℓ + 1 tokens and
/// no other.
/// </summary>
/// <param name="source">The corpus. Not owned.</param>
/// <param name="sequenceLength">N, tokens between windows' starts.</param>
internal sealed class BatchReader(ITokenSource source, long sequenceLength)
{
    /// <param name="windows">The batch.</param>
    /// <param name="firstRow">First row of the shard within a window.</param>
    /// <param name="rows">Rows of the shard.</param>
    /// <returns>Inputs and targets, each [windows, rows], int64. Owned by the caller.</returns>
    public (Tensor Inputs, Tensor Targets) Read(IReadOnlyList<long> windows, long firstRow, long rows)
    {
        var inputs = new long[windows.Count * rows];
        var targets = new long[windows.Count * rows];
        var tokens = new int[rows + 1];
        for (int w = 0; w < windows.Count; w++)
        {
            source.Read(windows[w] * sequenceLength + firstRow, tokens);
            for (long row = 0; row < rows; row++)
            {
                inputs[w * rows + row] = tokens[row];
                targets[w * rows + row] = tokens[row + 1];
            }
        }

        return (tensor(inputs, [windows.Count, rows]), tensor(targets, [windows.Count, rows]));
    }
}
