using LongNet.Core;

namespace LongNet.Trainer.Data;

/// <summary>
/// Windows of a corpus. Window i holds tokens i·N … i·N + N: N inputs, and as many targets one token later. The last
/// windows are held out for validation.
/// </summary>
/// <param name="SequenceLength">N.</param>
/// <param name="TrainingWindows">Windows 0 … TrainingWindows − 1 are for training.</param>
/// <param name="ValidationWindows">The windows after them are held out; 0 for none.</param>
internal sealed record CorpusSplit(long SequenceLength, long TrainingWindows, long ValidationWindows)
{
    /// <exception cref="UserException">The corpus is too short.</exception>
    public static CorpusSplit Create(long tokens, long sequenceLength, double validationFraction)
    {
        long windows = (tokens - 1) / sequenceLength;
        long validation = validationFraction > 0 ? Math.Max(1, (long)(windows * validationFraction)) : 0;
        if (windows - validation < 1)
        {
            long longest = (tokens - 1) / (1 + Math.Sign(validation));
            throw new UserException(
                longest < 1
                    ? $"data.path holds {tokens} tokens, too few to train on: add text."
                    : $"data.path holds {tokens} tokens, too few for training.sequence_length {sequenceLength}: "
                        + $"the longest that works is {longest}, or add text."
            );
        }

        return new CorpusSplit(sequenceLength, windows - validation, validation);
    }
}
