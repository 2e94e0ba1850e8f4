using System.Diagnostics;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Trainer.Benchmarks;

/// <summary>A collective that is measured, and what of its buffer crosses the slowest link.</summary>
/// <param name="Kind">Which.</param>
/// <param name="BusShare">Bytes over a rank's link per byte of the larger buffer, of P ranks: the convention of
/// nccl-tests.</param>
/// <param name="Prepare">Makes the buffer of a rank, [P, elements of a part], and returns the call that is measured.
/// Collective.</param>
internal sealed record CollectiveOperation(
    CollectiveKind Kind,
    Func<double, double> BusShare,
    Func<ProcessGroup, Tensor, Action> Prepare
)
{
    /// <summary>Its name on the command line.</summary>
    public string Name => Kind.Term();

    /// <summary>All that there are, in the order in which they are measured.</summary>
    public static IReadOnlyList<CollectiveOperation> All { get; } =
    [
        // Of the part that has this rank's number, so that the result is as large as the buffer.
        new(
            CollectiveKind.AllGather,
            ranks => (ranks - 1) / ranks,
            (group, buffer) =>
            {
                Tensor own = buffer[group.Rank];
                return () => group.AllGather(own).Dispose();
            }
        ),
        new(
            CollectiveKind.ReduceScatter,
            ranks => (ranks - 1) / ranks,
            (group, buffer) => () => group.ReduceScatter(buffer).Dispose()
        ),
        new(
            CollectiveKind.AllReduce,
            ranks => 2 * (ranks - 1) / ranks,
            (group, buffer) => () => group.AllReduce(buffer)
        ),
        new(CollectiveKind.Broadcast, _ => 1, (group, buffer) => () => group.Broadcast(buffer, 0)),
        new(
            CollectiveKind.AllToAll,
            ranks => (ranks - 1) / ranks,
            (group, buffer) => () => group.AllToAll(buffer).Dispose()
        ),
    ];

    /// <summary>The operation of a kind that is among <see cref="All"/>.</summary>
    public static CollectiveOperation Of(CollectiveKind kind) => All.First(operation => operation.Kind == kind);
}

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

/// <summary>
/// Collectives as a training step makes them: results in tensors of their own. A round is a barrier and then calls back
/// to back, and its time is that of the slowest rank, per call.
/// </summary>
/// <param name="Group">Two ranks or more.</param>
/// <param name="Type">Element type.</param>
/// <param name="Rounds">Rounds that count.</param>
internal sealed record CollectiveBenchmark(ProcessGroup Group, ScalarType Type, int Rounds)
{
    // Calls of microseconds are measured many at a time, so that leaving the barrier a little apart does not count.
    // benchmarks/collectives.c has the same numbers.
    private const int MostCalls = 64;
    private const long BytesPerRound = 16 << 20;

    // Touches all memory. An operation's first takes longer, with pauses: .NET replaces its quickly compiled code by
    // fast code in several steps, a tenth of a second apart, on a thread that ranks would else keep from the processor.
    private const double WarmupSeconds = 0.3,
        FirstWarmupSeconds = 1.5;
    private static readonly TimeSpan CompilerPause = TimeSpan.FromMilliseconds(10);

    private readonly HashSet<string> compiled = [];

    /// <summary>Measures one operation. Collective.</summary>
    /// <param name="operation">What is called.</param>
    /// <param name="bytes">The larger buffer of a rank: what an all-gather leaves there, what a reduce-scatter takes.
    /// Rounded down to equal parts.</param>
    public CollectiveTimes Run(CollectiveOperation operation, long bytes)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        long elementSize = empty([0], dtype: Type).ElementSize;
        // Zeros, because they stay what they are when they are summed over and over.
        Tensor buffer = zeros([Group.Size, Math.Max(1, bytes / elementSize / Group.Size)], dtype: Type);
        bytes = buffer.NumberOfElements * elementSize;
        Action call = operation.Prepare(Group, buffer);
        long calls = Math.Clamp(BytesPerRound / bytes, 1, MostCalls);
        bool isFirst = compiled.Add(operation.Name);
        // Ranks agree about the time, so they warm up for as many rounds.
        for (double warm = 0; warm < (isFirst ? FirstWarmupSeconds : WarmupSeconds); )
        {
            warm += calls * Round(call, calls);
            if (!isFirst)
                continue;
            Thread.Sleep(CompilerPause);
            warm += CompilerPause.TotalSeconds;
        }

        double[] seconds = [.. Enumerable.Range(0, Rounds).Select(_ => Round(call, calls))];
        Array.Sort(seconds);
        return new CollectiveTimes(
            operation.Name,
            bytes,
            seconds[0],
            (seconds[(Rounds - 1) / 2] + seconds[Rounds / 2]) / 2,
            operation.BusShare(Group.Size)
        );
    }

    // Seconds per call.
    private double Round(Action call, long calls)
    {
        Group.Barrier();
        long start = Stopwatch.GetTimestamp();
        for (long i = 0; i < calls; i++)
            call();
        return Slowest(Stopwatch.GetElapsedTime(start).TotalSeconds) / calls;
    }

    private double Slowest(double own)
    {
        using var scope = NewDisposeScope();
        Tensor slowest = tensor(new[] { own });
        Group.AllReduce(slowest, ReduceOperation.Max);
        return slowest.item<double>();
    }
}
