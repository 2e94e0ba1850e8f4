using LongNet.Core.Native;
using LongNet.Distributed.Launch;
using LongNet.TestKit;
using static TorchSharp.torch;

namespace LongNet.RankWorker.Scenarios;

/// <summary>The device of scenarios that need one other than the CPU.</summary>
internal static class ScenarioDevice
{
    /// <summary>This rank's GPU, which it may share with others where the machine has one; else the emulated
    /// device.</summary>
    public static Device OfRank(RankEnvironment environment) =>
        LibTorch.HasCudaDevice ? RankDevice.Cuda(environment) : EmulatedDevice.Start();

    /// <summary>The same where a scenario's arguments have "--device", else the CPU.</summary>
    public static Device Of(RankEnvironment environment, string[] arguments) =>
        arguments.Contains("--device") ? OfRank(environment) : CPU;
}
