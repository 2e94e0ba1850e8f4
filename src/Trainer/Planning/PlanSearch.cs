using LongNet.Core;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Planning.Machines;

namespace LongNet.Trainer.Planning;

/// <summary>What fits a given memory per rank.</summary>
internal static class PlanSearch
{
    // 2^40 rows, as configurations allow, and 65536 ranks.
    private const int LargestLengthPower = 40,
        LargestRankPower = 16;

    /// <summary>
    /// The longest sequence, among powers of two and one and a half times these, that so many ranks hold; null where
    /// none of them does.
    /// </summary>
    public static Prediction? LongestSequence(RunConfig config, int ranks, Machine machine, double memory) =>
        Lengths()
            .Reverse()
            .Select(length => Try(Prediction.WithLength(config, length), ranks, machine, memory))
            .FirstOrDefault(prediction => prediction is not null);

    /// <summary>The smallest power of two of ranks that hold the sequence; null where none does.</summary>
    public static Prediction? FewestRanks(RunConfig config, Machine machine, double memory) =>
        Enumerable
            .Range(0, LargestRankPower + 1)
            .Select(power => Try(config, 1 << power, machine, memory))
            .FirstOrDefault(prediction => prediction is not null);

    private static IEnumerable<long> Lengths()
    {
        for (int power = 4; power <= LargestLengthPower; power++)
        {
            yield return 1L << power;
            if (power < LargestLengthPower)
                yield return 3L << (power - 1);
        }
    }

    private static Prediction? Try(RunConfig config, int ranks, Machine machine, double memory)
    {
        try
        {
            return Prediction.Of(config, ranks, machine) is { } prediction && prediction.Fits(memory)
                ? prediction
                : null;
        }
        catch (UserException)
        {
            // The schedule, the mesh or the positions do not fit, which is another reason not to take it.
            return null;
        }
    }
}
