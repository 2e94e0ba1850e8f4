using System.Diagnostics;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Trainer.Measuring;

/// <summary>
/// Times collectives as a training step calls them, with results in new tensors. A round is a barrier and then calls
/// back to back; its time is that of the slowest rank, per call.
/// </summary>
/// <param name="Group">Two ranks or more.</param>
/// <param name="Type">Element type.</param>
/// <param name="Rounds">Rounds that count.</param>
internal sealed record CollectiveBenchmark(ProcessGroup Group, ScalarType Type, int Rounds)
{
    // Calls of microseconds are measured many at a time, so that it does not count when ranks leave the barrier at
    // slightly different times. benchmarks/collectives.c has the same numbers.
    private const int MostCalls = 64;
    private const long BytesPerRound = 16 << 20;

    // Warming up touches all memory. The first warm-up of an operation takes longer and has pauses: .NET replaces
    // quickly compiled code by optimized code in several steps, a tenth of a second apart, on a background thread that
    // needs a processor which the ranks would otherwise keep busy.
    private const double WarmupSeconds = 0.3,
        FirstWarmupSeconds = 1.5;
    private static readonly TimeSpan CompilerPause = TimeSpan.FromMilliseconds(10);

    private readonly HashSet<CollectiveKind> compiled = [];

    /// <summary>Measures one operation. Collective.</summary>
    /// <param name="operation">What is called.</param>
    /// <param name="bytes">The larger buffer of a rank: what an all-gather leaves there, what a reduce-scatter takes.
    /// Rounded down to equal parts.</param>
    public CollectiveTimes Run(CollectiveOperation operation, long bytes)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        long elementSize = empty([0], dtype: Type, device: CPU).ElementSize;
        // Sums of zeros stay zeros, however often they are made.
        Tensor buffer = zeros([Group.Size, Math.Max(1, bytes / elementSize / Group.Size)], dtype: Type, device: CPU);
        bytes = buffer.NumberOfElements * elementSize;
        Action call = operation.Prepare(Group, buffer);
        long calls = Math.Clamp(BytesPerRound / bytes, 1, MostCalls);
        bool isFirst = compiled.Add(operation.Kind);
        // Ranks agree about the time, so they warm up for as many rounds.
        for (double warm = 0; warm < (isFirst ? FirstWarmupSeconds : WarmupSeconds); )
        {
            warm += calls * Round(call, calls);
            if (!isFirst)
                continue;
#pragma warning disable RS0030 // The compiler does not report when it is done.
            Thread.Sleep(CompilerPause);
#pragma warning restore RS0030
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
        Tensor slowest = tensor(new[] { own }, device: CPU);
        Group.AllReduce(slowest, ReduceOperation.Max);
        return slowest.item<double>();
    }
}
