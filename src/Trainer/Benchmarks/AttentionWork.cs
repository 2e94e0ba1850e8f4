using LongNet.Core.Attention;
using LongNet.Core.Attention.Kernels;
using LongNet.Core.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Trainer.Benchmarks;

/// <summary>The pieces of work that the attention benchmark times, on inputs of one length.</summary>
/// <remarks>The inputs belong to the dispose scope in which this is made.</remarks>
internal sealed class AttentionWork : IDisposable
{
    private readonly Tensor q,
        k,
        v,
        outputGradient;
    private readonly AttentionPattern options;
    private readonly RelativePositionBias? bias;

    public AttentionWork(AttentionBenchmark benchmark, long length)
    {
        Tensor[] inputs =
        [
            .. Enumerable
                .Range(0, 4)
                .Select(_ =>
                    randn(
                        [1, length, benchmark.Heads, benchmark.HeadDim],
                        dtype: benchmark.Type,
                        device: benchmark.Device.Device
                    )
                ),
        ];
        q = inputs[0].requires_grad_();
        k = inputs[1].requires_grad_();
        v = inputs[2].requires_grad_();
        outputGradient = inputs[3];
        options = new AttentionPattern(benchmark.Schedule, Causal: true);
        Blocks =
        [
            .. DilatedAttentionPlan
                .Create(q.shape, options, UnshardedSequence.Instance)
                .Branches.SelectMany(branch => branch.LocalBlocks),
        ];
        LibtorchKernel = AttentionKernels.OfLibtorch(Blocks[0].View(q), Blocks[0].Rows);
        Kernel = AttentionKernels.For(Blocks[0].View(q), Blocks[0].Rows);
        if (benchmark.Biased)
        {
            bias = new RelativePositionBias(
                benchmark.Heads,
                new(
                    RelativePositionBuckets.DefaultCount,
                    RelativePositionBuckets.DefaultMaxDistance,
                    Bidirectional: false
                )
            );
            bias.to(benchmark.Device.Device);
        }
    }

    /// <summary>The blocks of all branches.</summary>
    public IReadOnlyList<RowBlock> Blocks { get; }

    /// <summary>libtorch's fused kernel for the blocks.</summary>
    public IAttentionKernel LibtorchKernel { get; }

    /// <summary>The kernel that dilated attention uses for them; may be libtorch's.</summary>
    public IAttentionKernel Kernel { get; }

    public long QueryBytes => q.NumberOfElements * q.ElementSize;

    /// <summary>Dilated attention, forward.</summary>
    public void Forward()
    {
        using var noGradient = no_grad();
        DilatedAttention.Attend(q, k, v, options, bias: bias).Dispose();
    }

    /// <summary>Dilated attention, forward and backward.</summary>
    public void ForwardAndBackward()
    {
        using var scope = NewDisposeScope();
        Tensor output = DilatedAttention.Attend(q, k, v, options, bias: bias);
        // As a layer's backward does, this gives a gradient of the output's shape and type.
        BackwardPass.Run(output.mul(outputGradient).sum());
        foreach (Tensor input in bias is null ? new[] { q, k, v } : [q, k, v, bias.Table])
        {
            input.grad!.Dispose();
            input.grad = null;
        }
    }

    /// <summary>A kernel on all blocks, one after the other.</summary>
    public void Bare(IAttentionKernel kernel, bool backward)
    {
        using var noGradient = no_grad();
        foreach (RowBlock block in Blocks)
            Run(kernel, block.View(q), block.View(k), block.View(v), block.View(outputGradient), backward);
    }

    /// <summary>libtorch's kernel on the complete sequence.</summary>
    public void Dense(bool backward)
    {
        using var noGradient = no_grad();
        Run(
            LibtorchKernel,
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            outputGradient.transpose(1, 2),
            backward
        );
    }

    public void Dispose() => bias?.Dispose();

    private static void Run(IAttentionKernel kernel, Tensor q, Tensor k, Tensor v, Tensor gradient, bool backward)
    {
        using var scope = NewDisposeScope();
        var (output, logSumExp) = kernel.Forward(q, k, v, causal: true);
        if (backward)
            _ = kernel.Backward(gradient, q, k, v, output, logSumExp, causal: true);
    }
}
