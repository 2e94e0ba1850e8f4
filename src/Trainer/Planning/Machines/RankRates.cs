using System.Text.Json;
using System.Text.Json.Serialization;
using LongNet.Distributed.Collectives;

namespace LongNet.Trainer.Planning.Machines;

/// <summary>What one rank reaches by itself; more is faster.</summary>
internal sealed record RankRates
{
    // A clock that is too coarse for what it times makes a rate infinite.
    private static readonly JsonSerializerOptions Json = new()
    {
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
    };

    /// <summary>Matrix products in float32, operations per second.</summary>
    public required double MatrixFloat32 { get; init; }

    /// <summary>Matrix products in bfloat16, operations per second.</summary>
    public required double MatrixBfloat16 { get; init; }

    /// <summary>Attention in float32, forward and backward, operations per second.</summary>
    public required double AttentionFloat32 { get; init; }

    /// <summary>Attention in bfloat16, forward and backward, operations per second.</summary>
    public required double AttentionBfloat16 { get; init; }

    /// <summary>Bytes per second of work by element.</summary>
    public required double MemoryBandwidth { get; init; }

    /// <summary>Operations on next to nothing per second.</summary>
    public required double Calls { get; init; }

    /// <summary>Bytes per second written to the disk; 0 where it was not measured.</summary>
    public required double DiskWrite { get; init; }

    /// <summary>Bytes per second read from the disk; 0 where it was not measured.</summary>
    public required double DiskRead { get; init; }

    /// <summary>Bytes per second of fresh memory from the system.</summary>
    public required double FirstTouch { get; init; }

    /// <summary>Of every rate the slowest rank's. Collective.</summary>
    /// <returns>The same on all ranks.</returns>
    public static RankRates Slowest(ProcessGroup world, RankRates own)
    {
        RankRates[] all =
        [
            .. ObjectCollectives
                .AllGatherText(world, JsonSerializer.Serialize(own, Json))
                .Select(text => JsonSerializer.Deserialize<RankRates>(text, Json)!),
        ];
        return new RankRates
        {
            MatrixFloat32 = all.Min(rank => rank.MatrixFloat32),
            MatrixBfloat16 = all.Min(rank => rank.MatrixBfloat16),
            AttentionFloat32 = all.Min(rank => rank.AttentionFloat32),
            AttentionBfloat16 = all.Min(rank => rank.AttentionBfloat16),
            MemoryBandwidth = all.Min(rank => rank.MemoryBandwidth),
            Calls = all.Min(rank => rank.Calls),
            DiskWrite = all.Min(rank => rank.DiskWrite),
            DiskRead = all.Min(rank => rank.DiskRead),
            FirstTouch = all.Min(rank => rank.FirstTouch),
        };
    }
}

/// <summary>What ranks of a machine reach together.</summary>
/// <param name="AllGatherBandwidth">Bytes per second over a rank's link.</param>
/// <param name="ReduceScatterBandwidth">Likewise.</param>
/// <param name="Latency">Seconds that a collective of two ranks takes for next to nothing.</param>
internal sealed record ExchangeRates(double AllGatherBandwidth, double ReduceScatterBandwidth, double Latency)
{
    // Within a machine a message is read and written by its sender, and by its receiver. The latency is that of a
    // message between two cores.
    private const double PassesOfMessage = 4,
        AssumedLatency = 10e-6;

    /// <summary>What is assumed where there is only one rank, which cannot measure it.</summary>
    public static ExchangeRates Assumed(double memoryBandwidth) =>
        new(memoryBandwidth / PassesOfMessage, memoryBandwidth / PassesOfMessage, AssumedLatency);
}
