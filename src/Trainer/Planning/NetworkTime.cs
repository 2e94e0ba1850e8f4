using LongNet.Trainer.Planning.Machines;

namespace LongNet.Trainer.Planning;

/// <summary>How long collectives take on a machine's links.</summary>
internal static class NetworkTime
{
    /// <param name="collective">Who takes part, and in what.</param>
    /// <param name="linkBytes">Bytes over a rank's link, all calls together.</param>
    /// <param name="calls">How many.</param>
    /// <param name="machine">As each rank has it.</param>
    public static double Of(CollectiveCost collective, double linkBytes, double calls, Machine machine)
    {
        bool within = collective.Ranks <= machine.RanksPerHost;
        double bandwidth =
            within || machine.NetworkBandwidth is null
                ? collective.Use == CollectiveUse.KeyValues
                    ? machine.AllGatherBandwidth
                    : machine.ReduceScatterBandwidth
                : machine.NetworkBandwidth.Value;
        // Trees and pairwise exchanges need so many rounds at least.
        double rounds = Math.Max(1, Math.Ceiling(Math.Log2(collective.Ranks)));
        return calls * rounds * machine.CollectiveLatency + (bandwidth > 0 ? linkBytes / bandwidth : 0);
    }
}
