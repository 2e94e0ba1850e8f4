using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;
using LongNet.Core;
using LongNet.Core.Devices;
using LongNet.TestKit;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Loop;

namespace LongNet.Trainer.Tests.Loop;

/// <summary>A device without memory is the user's to mend, so the sentence names the keys.</summary>
public sealed class DeviceMemoryErrorTests
{
    private const string OutOfMemory =
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.19 GiB.\nException raised "
        + "from malloc at /pytorch/c10/cuda/CUDACachingAllocator.cpp:1588";

    [Fact]
    public void Explain_ADeviceWithoutMemory_NamesTheKeysThatTakeLess()
    {
        RunPlan plan = Plan("training.micro_batch_size=4");
        var error = Assert.Throws<UserException>(() => Fail(plan, EmulatedDevice.Compute, OutOfMemory));

        foreach (
            string part in new[]
            {
                "Tried to allocate 20.00 GiB",
                "training.micro_batch_size (it is 4)",
                "memory.recompute",
                "parallel.sequence",
                "parallel.shard_optimizer",
                "longnet plan",
            }
        )
            Assert.Contains(part, error.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("Exception raised", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Explain_KeysThatAreSetAlready_AreNotNamed()
    {
        RunPlan plan = Plan("training.micro_batch_size=1", "memory.recompute=full", "parallel.shard_optimizer=true");
        var error = Assert.Throws<UserException>(() => Fail(plan, EmulatedDevice.Compute, OutOfMemory));

        foreach (string key in new[] { "micro_batch_size", "recompute", "shard_optimizer" })
            Assert.DoesNotContain(key, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Explain_AnotherError_StaysAsItIs()
    {
        RunPlan plan = Plan();
        Assert.Throws<ExternalException>(() => Fail(plan, EmulatedDevice.Compute, "an illegal memory access"));
        Assert.Throws<ExternalException>(() => Fail(plan, ComputeDevice.Cpu, OutOfMemory));
    }

    private static RunPlan Plan(params string[] settings) =>
        RunPlan.Open(ConfigurationFile.Load(Repository.PathOf("configs/ranks-agree.yaml"), settings), 1);

    [SuppressMessage("Usage", "CA2201", Justification = "It is what TorchSharp throws.")]
    private static int Fail(RunPlan plan, ComputeDevice device, string message) =>
        DeviceMemoryError.Explain<int>(plan, device, () => throw new ExternalException(message));
}
