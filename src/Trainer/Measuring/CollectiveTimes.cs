namespace LongNet.Trainer.Measuring;

/// <summary>What an operation took.</summary>
/// <param name="Operation">Its name.</param>
/// <param name="Bytes">The larger buffer of a rank.</param>
/// <param name="BestSeconds">The shortest round, per call.</param>
/// <param name="MedianSeconds">The round in the middle, per call.</param>
/// <param name="BusShare">See <see cref="CollectiveOperation"/>, of this number of ranks.</param>
internal sealed record CollectiveTimes(
    string Operation,
    long Bytes,
    double BestSeconds,
    double MedianSeconds,
    double BusShare
)
{
    /// <summary>Bytes per second over a rank's link in the shortest round.</summary>
    public double BestBusBandwidth => Bytes * BusShare / BestSeconds;

    /// <summary>Bytes per second over a rank's link in the round in the middle.</summary>
    public double MedianBusBandwidth => Bytes * BusShare / MedianSeconds;
}
