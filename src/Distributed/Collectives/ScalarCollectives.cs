using System.Runtime.CompilerServices;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives;

/// <summary>Collectives of one number.</summary>
public static class ScalarCollectives
{
    /// <summary>Adds up every rank's number, in rank order. Collective.</summary>
    /// <returns>The sum, the same bits on all ranks.</returns>
    public static double Sum(
        this ProcessGroup group,
        double value,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        ArgumentNullException.ThrowIfNull(group);
        using var scope = NewDisposeScope();
        Tensor total = tensor(new[] { value }, device: CPU);
        group.AllReduce(total, file: file, line: line);
        return total.item<double>();
    }

    /// <summary><see cref="Sum"/> of one number and the largest of another, in one collective. Collective.</summary>
    /// <returns>The same bits on all ranks.</returns>
    public static (double Sum, double Largest) SumAndLargest(
        this ProcessGroup group,
        double added,
        double compared,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        ArgumentNullException.ThrowIfNull(group);
        using var scope = NewDisposeScope();
        double[] all = group
            .AllGather(tensor(new[] { added, compared }, device: CPU), file, line)
            .data<double>()
            .ToArray();
        var (sum, largest) = (all[0], all[1]);
        for (int rank = 1; rank < group.Size; rank++)
            (sum, largest) = (sum + all[2 * rank], Math.Max(largest, all[2 * rank + 1]));
        return (sum, largest);
    }
}
