using System.Runtime.CompilerServices;
using static TorchSharp.torch;

namespace LongNet.Distributed;

/// <summary>Collectives of one number.</summary>
public static class ScalarCollectives
{
    /// <summary>Adds up every rank's number, in rank order. Collective.</summary>
    /// <returns>The sum, the same bits on all ranks.</returns>
    public static double Sum(this ProcessGroup group, double value, [CallerFilePath] string file = "", [CallerLineNumber] int line = 0)
    {
        ArgumentNullException.ThrowIfNull(group);
        using var scope = NewDisposeScope();
        Tensor total = tensor(new[] { value });
        group.AllReduce(total, file: file, line: line);
        return total.item<double>();
    }
}
