using LongNet.Core.Attention;
using LongNet.Core.Native;
using LongNet.Core.Numerics;
using LongNet.Core.Serialization;
using LongNet.Distributed.Lifetime;
using static TorchSharp.torch;

namespace LongNet.RankWorker.Scenarios;

/// <summary>
/// Results of one process's kernels, for a test that compares two processes: the choice of kernels is made once in
/// each.
/// </summary>
internal static class FastKernels
{
    /// <param name="runtime">One rank.</param>
    /// <param name="arguments">"on" or "off", and the file that takes the results.</param>
    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        LibTorch.Load();
        Console.WriteLine(
            $"applied {arguments[0] == "on" && MklOnAmd.Apply()}, memory kept "
                + $"{arguments[0] == "on" && MemoryAllocator.KeepFreedMemory()}"
        );
        using var scope = NewDisposeScope();
        using var generator = new Generator(1);
        var results = new List<KeyValuePair<string, Tensor>>();
        foreach (ScalarType dtype in new[] { float64, float32, bfloat16 })
        {
            Tensor a = Random(dtype, 300, 500),
                b = Random(dtype, 500, 200);
            results.Add(new($"{dtype} product", a.matmul(b)));
            Tensor[] inputs = [.. Enumerable.Range(0, 3).Select(_ => Random(dtype, 2, 256, 4, 64).requires_grad_())];
            var options = new AttentionPattern(
                new SegmentSchedule(new Branch(64, 1), new Branch(256, 2)),
                Causal: true
            );
            Tensor output = DilatedAttention.Attend(inputs[0], inputs[1], inputs[2], options);
            BackwardPass.Run(output.mul(Random(dtype, 2, 256, 4, 64)).sum());
            results.Add(new($"{dtype} attention", output.detach()));
            results.AddRange(inputs.Select((input, i) => KeyValuePair.Create($"{dtype} gradient {i}", input.grad!)));
        }

        SafetensorsWriter.Write(arguments[1], results);
        MemoryAllocator.Trim();

        Tensor Random(ScalarType dtype, params long[] shape) =>
            randn(shape, dtype: float64, generator: generator).to(dtype);
    }
}
