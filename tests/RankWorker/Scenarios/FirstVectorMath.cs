using LongNet.Core.Native;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Platform;
using static TorchSharp.torch;

namespace LongNet.RankWorker.Scenarios;

/// <summary>
/// Whether a process's first exponentials on several threads are its second ones, for a test that asks many processes.
/// </summary>
internal static class FirstVectorMath
{
    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        LibTorch.Load();
        ProcessSettings.Apply(new RuntimeConfig { Threads = 2 }, runtime.Environment);
        using var scope = NewDisposeScope();
        // The threads are there and busy, as at a model's first rows.
        _ = ones(512, 64).matmul(ones(64, 64));
        // Two threads' shares.
        Tensor exponents = arange(4096, ScalarType.Float64).mul(-1e-3);
        Tensor first = exponents.exp(),
            second = exponents.exp();
        Console.WriteLine($"{first.ne(second).sum().item<long>()} of {exponents.shape[0]} differ");
    }
}
