using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// Attention over one block of rows, on one kind of device. <see cref="AttentionKernels"/> chooses among them and says
/// what the arguments and results are.
/// </summary>
/// <remarks>
/// Backward is given the output and log-sum-exp of a whole mixture instead of what this kernel's forward returned, so a
/// kernel keeps nothing from one to the other.
/// </remarks>
internal interface IAttentionKernel
{
    /// <summary>The longest first axis, segments and sequences folded together, that one call takes.</summary>
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
