using LongNet.Core.Attention;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

/// <summary>One attention problem, run by the program and by the oracle.</summary>
/// <param name="Lengths">Rows of every sequence that are not padding; null where there is none.</param>
/// <param name="Buckets">Those of the relative position bias; null for none.</param>
public sealed record AttentionCase(
    long Batch,
    long Length,
    long Heads,
    long HeadDim,
    AttentionPattern Options,
    int Seed = 1,
    IReadOnlyList<long>? Lengths = null,
    RelativePositionBuckets? Buckets = null
)
{
    /// <summary>Compares output and the gradients of q, k, v and the bias with the float64 oracle.</summary>
    /// <param name="type">Compute type of the program; the oracle sees the same rounded inputs in float64.</param>
    /// <param name="tolerance">Largest allowed error relative to the largest expected value.</param>
    /// <param name="device">Where the program computes; the CPU where null, as the oracle always does.</param>
    public void AssertMatchesOracle(ScalarType type, double tolerance, Device? device = null)
    {
        device ??= CPU;
        using var scope = NewDisposeScope();
        using var generator = new Generator((ulong)Seed);
        Tensor[] inputs = [.. Enumerable.Range(0, 3).Select(_ => Random())];
        Tensor cotangent = Random();
        using RelativePositionBias? bias = Buckets is null ? null : new RelativePositionBias(Heads, Buckets);
        bias?.to(device);
        if (type == ScalarType.Float64)
            bias?.to(type);
        using (no_grad())
            bias?.Table.copy_(randn([Buckets!.Count, Heads], generator: generator));

        Tensor[] own = [.. inputs.Select(x => x.detach().clone().to(device).requires_grad_())];
        Tensor output = DilatedAttention.Attend(own[0], own[1], own[2], Options, lengths: Lengths, bias: bias);
        Numerics.BackwardPassRunner.Run(output, cotangent.to(device));

        Tensor[] exact = [.. inputs.Select(x => x.to(float64).requires_grad_())];
        Tensor? table = bias?.Table.detach().to(float64).cpu().requires_grad_();
        Tensor expected = AttentionOracle.Attend(exact[0], exact[1], exact[2], Options, Lengths, table, Buckets);
        expected.backward([cotangent.to(float64)]);

        Assert.Equal(type, output.dtype);
        Assert.Equal(device.type, output.device_type);
        string description = ToString();
        Compare.AssertClose(output, expected, tolerance, $"output of {description}", floor: 1e-3);
        // A causal first row's gradient is exactly zero: what is below 0.1 is compared as if it were that large.
        foreach (var (name, index) in new[] { ("q", 0), ("k", 1), ("v", 2) })
            Compare.AssertClose(
                own[index].grad!,
                exact[index].grad!,
                tolerance,
                $"gradient of {name} of {description}",
                floor: 0.1
            );
        if (bias is not null)
            Compare.AssertClose(
                bias.Table.grad!,
                table!.grad!,
                tolerance,
                $"gradient of the bias of {description}",
                floor: 0.1
            );

        Tensor Random() => randn([Batch, Length, Heads, HeadDim], dtype: float64, generator: generator).to(type);
    }
}
