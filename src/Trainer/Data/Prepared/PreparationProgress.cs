using System.Diagnostics;

namespace LongNet.Trainer.Data.Prepared;

/// <summary>How far a preparation is: a bar that moves on a terminal, and elsewhere a line every few seconds.</summary>
/// <param name="output">Where it is written.</param>
/// <param name="isTerminal">Whether a line can be overwritten.</param>
/// <param name="totalBytes">Bytes of all files.</param>
internal sealed class PreparationProgress(TextWriter output, bool isTerminal, long totalBytes)
{
    private const int BarWidth = 30;
    private const double SecondsOnTerminal = 0.2,
        SecondsElsewhere = 5;

    private readonly Lock gate = new();
    private readonly Stopwatch clock = Stopwatch.StartNew();
    private long done,
        doneBefore;
    private double lastPrinted;

    public double Seconds => clock.Elapsed.TotalSeconds;

    /// <summary>Counts a part. May be called from any thread.</summary>
    /// <param name="bytes">Bytes of files that it stands for.</param>
    /// <param name="wasThere">Whether it was finished before.</param>
    public void Add(long bytes, bool wasThere)
    {
        lock (gate)
        {
            done += bytes;
            doneBefore += wasThere ? bytes : 0;
            if (Seconds - lastPrinted < (isTerminal ? SecondsOnTerminal : SecondsElsewhere))
                return;
            lastPrinted = Seconds;
            Print();
        }
    }

    /// <summary>Ends the line of a bar.</summary>
    public void Finish()
    {
        lock (gate)
        {
            if (!isTerminal)
                return;
            Print();
            output.WriteLine();
        }
    }

    private void Print()
    {
        double share = totalBytes == 0 ? 1 : (double)done / totalBytes,
            rate = (done - doneBefore) / Seconds;
        string left =
            rate > 0 ? $", {TimeSpan.FromSeconds(Math.Min(1e6, (totalBytes - done) / rate)):hh\\:mm\\:ss} left" : "";
        string text = $"{share, 4:P0}  {done / 1e6:F0} of {totalBytes / 1e6:F0} MB, {rate / 1e6:F1} MB/s{left}";
        if (!isTerminal)
        {
            output.WriteLine(text.TrimStart());
            return;
        }

        int filled = (int)(share * BarWidth);
        output.Write($"\r[{new string('#', filled)}{new string('.', BarWidth - filled)}] {text}   ");
        output.Flush();
    }
}
