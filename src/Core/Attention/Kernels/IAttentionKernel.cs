using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// Attention over one block of rows, on one kind of device. <see cref="AttentionKernels"/> chooses the kernel and
/// documents arguments and results.
/// </summary>
/// <remarks>
/// Backward is given output and log-sum-exp merged over all branches, not those that this kernel's forward returned. So
/// a kernel keeps no state between the two.
/// </remarks>
internal interface IAttentionKernel
{
    /// <summary>Largest first axis (segments and sequences folded together) of one call.</summary>
    long LargestBatch { get; }

    /// <inheritdoc cref="AttentionKernels.Forward"/>
    (Tensor Output, Tensor LogSumExp) Forward(Tensor q, Tensor k, Tensor v, bool causal);

    /// <inheritdoc cref="AttentionKernels.Backward"/>
    (Tensor Q, Tensor K, Tensor V) Backward(
        Tensor gradient,
        Tensor q,
        Tensor k,
        Tensor v,
        Tensor output,
        Tensor logSumExp,
        bool causal
    );
}
