using LongNet.Core.Attention;
using LongNet.Trainer.Measuring;
using static TorchSharp.torch;

namespace LongNet.Trainer.Benchmarks;

/// <summary>What decoding one row takes after a prompt.</summary>
/// <param name="Prompt">Rows of the prompt, all at once.</param>
/// <param name="PromptSeconds">Seconds of the prompt.</param>
/// <param name="RowSeconds">Mean seconds of a row that follows, one by one.</param>
/// <param name="KeptKeys">Keys that the cache holds after the prompt, per head.</param>
internal sealed record DecodeTimes(long Prompt, double PromptSeconds, double RowSeconds, double KeptKeys);

/// <summary>
/// Decoding by an attention with its projections: the cost of a row depends on the keys that its segments keep, not on
/// all that came before.
/// </summary>
/// <param name="Heads">Heads.</param>
/// <param name="HeadDim">Channels per head.</param>
/// <param name="Schedule">Branches.</param>
/// <param name="Rows">Rows that are decoded after the prompt.</param>
internal sealed record DecodeBenchmark(long Heads, long HeadDim, SegmentSchedule Schedule, int Rows)
{
    public DecodeTimes Run(long prompt)
    {
        using var scope = NewDisposeScope();
        long channels = Heads * HeadDim;
        using var attention = new DilatedAttention(
            new DilatedAttentionOptions
            {
                Channels = channels,
                Heads = Heads,
                Branches = Schedule,
                Causal = true,
                Positions = PositionEncoding.Rope,
            }
        );
        Tensor promptRows = randn(1, prompt, channels, device: CPU),
            next = randn(1, 1, channels, device: CPU);
        using (KeyValueCache warm = attention.CreateCache(1, prompt + 1))
        {
            attention.Decode(promptRows, warm).Dispose();
            attention.Decode(next, warm).Dispose();
        }

        using KeyValueCache cache = attention.CreateCache(1, prompt + Rows);
        double ofPrompt = Measurement.Seconds(() => attention.Decode(promptRows, cache).Dispose());
        double kept = (double)cache.KeptKeys / Heads;
        double ofRows = Measurement.Seconds(() =>
        {
            for (int row = 0; row < Rows; row++)
                attention.Decode(next, cache).Dispose();
        });
        return new DecodeTimes(prompt, ofPrompt, ofRows / Rows, kept);
    }
}
