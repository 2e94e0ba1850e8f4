using System.Runtime.InteropServices;
using LongNet.Core;
using LongNet.Core.Devices;
using LongNet.Core.Model;

namespace LongNet.Trainer.Loop;

/// <summary>What a user is told when a device has no memory left.</summary>
internal static class DeviceMemoryError
{
    // Of libtorch's allocator; and of libraries that allocate by themselves.
    private static readonly string[] Signs = ["out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"];

    /// <summary>Calls what may take memory.</summary>
    /// <param name="plan">The run.</param>
    /// <param name="device">Where it computes.</param>
    /// <param name="work">Called once.</param>
    /// <exception cref="UserException">The device has no memory left; says which keys of the configuration take
    /// less.</exception>
    public static T Explain<T>(RunPlan plan, ComputeDevice device, Func<T> work)
    {
        try
        {
            return work();
        }
        catch (ExternalException error)
            when (!device.IsCpu && Signs.Any(sign => error.Message.Contains(sign, StringComparison.Ordinal)))
        {
            throw new UserException(Text(plan, device, error), error);
        }
    }

    private static string Text(RunPlan plan, ComputeDevice device, ExternalException error)
    {
        string reason = error.Message.Split('\n')[0].TrimEnd('.');
        string[] remedies =
        [
            .. plan.Batch.MicroBatchSize > 1
                ? [$"lower training.micro_batch_size (it is {plan.Batch.MicroBatchSize})"]
                : Array.Empty<string>(),
            .. plan.Config.Memory.Recompute == Recompute.Full ? [] : new[] { "set memory.recompute to block or full" },
            "start more ranks along the sequence (parallel.sequence)",
            .. plan.Config.Parallel.ShardOptimizer ? [] : new[] { "set parallel.shard_optimizer to true" },
        ];
        return $"{device.Device} has no memory left ({reason}): {string.Join(", ", remedies)}; longnet plan shows what "
            + "each takes.";
    }
}
