using System.Diagnostics;
using LongNet.Core.Devices;

namespace LongNet.Trainer.Measuring;

/// <summary>Times work and the memory it takes.</summary>
internal static class Measurement
{
    /// <summary>
    /// Times several pieces of work in turn, so that a slow phase of the machine slows all of them.
    /// </summary>
    /// <param name="device">Where the work is done.</param>
    /// <param name="rounds">How often each runs, after one round that is not counted.</param>
    /// <param name="work">The pieces.</param>
    /// <returns>The shortest time of each, in seconds: that of undisturbed work.</returns>
    public static double[] ShortestSeconds(BenchDevice device, int rounds, params Action[] work)
    {
        var shortest = new double[work.Length];
        Array.Fill(shortest, double.PositiveInfinity);
        for (int round = -1; round < rounds; round++)
        {
            for (int piece = 0; piece < work.Length; piece++)
            {
                device.Synchronize();
                var clock = Stopwatch.StartNew();
                work[piece]();
                device.Synchronize();
                if (round >= 0)
                    shortest[piece] = Math.Min(shortest[piece], clock.Elapsed.TotalSeconds);
            }
        }

        return shortest;
    }

    /// <summary>Times work on the CPU again and again.</summary>
    /// <param name="seconds">For how long, after one round that is not counted.</param>
    /// <param name="work">The work.</param>
    /// <returns>
    /// The median of its times, in seconds: that of work on this machine as it is, with whatever else runs there.
    /// </returns>
    public static double MedianSeconds(double seconds, Action work)
    {
        work();
        var times = new List<double>();
        for (var clock = Stopwatch.StartNew(); times.Count == 0 || clock.Elapsed.TotalSeconds < seconds; )
            times.Add(Seconds(work));
        times.Sort();
        return times[times.Count / 2];
    }

    /// <summary>Times work on the CPU once, in seconds.</summary>
    public static double Seconds(Action work)
    {
        var clock = Stopwatch.StartNew();
        work();
        return clock.Elapsed.TotalSeconds;
    }

    /// <summary>How far the resident memory rises while the work runs.</summary>
    /// <param name="device">Where the work is done.</param>
    /// <param name="work">The work.</param>
    /// <returns>Bytes; null where the system does not report it, as of a GPU's memory.</returns>
    public static long? PeakGrowth(BenchDevice device, Action work)
    {
        if (device.IsCuda)
            return null;
        try
        {
            // Memory that was freed but kept would hide what the work takes.
            ComputeDevice.Cpu.TrimMemory();
            // Resets the peak to what is resident now.
            File.WriteAllText("/proc/self/clear_refs", "5");
            long? before = ComputeDevice.Cpu.PeakBytes();
            work();
            return ComputeDevice.Cpu.PeakBytes() - before;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}
