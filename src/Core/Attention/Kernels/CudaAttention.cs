using System.Globalization;
using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>The attention kernels of NVIDIA GPUs.</summary>
internal enum CudaAttentionKernel
{
    /// <summary>The fastest that can compute the block.</summary>
    Auto,

    /// <summary>FlashAttention-2, see <see cref="CudaFlashKernel"/>.</summary>
    Flash,

    /// <summary>cuDNN's, see <see cref="CudaCudnnKernel"/>.</summary>
    Cudnn,

    /// <summary>The memory-efficient one, see <see cref="CudaEfficientKernel"/>.</summary>
    Efficient,

    /// <summary>Tensor operations, see <see cref="MathKernel"/>.</summary>
    Math,
}

/// <summary>Which kernel attends on NVIDIA GPUs, for this process.</summary>
internal static class CudaAttention
{
    /// <summary>Environment variable with the initial value of <see cref="Preferred"/>.</summary>
    public const string Variable = "LONGNET_CUDA_ATTENTION";

    // A block of fewer rows is too small for cuDNN's kernels to be faster, and each shape costs it a plan.
    private const long FewestRowsForCudnn = 128;

    private static readonly CudaFlashKernel Flash = new();
    private static readonly CudaCudnnKernel Cudnn = new();
    private static readonly CudaEfficientKernel Efficient = new();
    private static readonly MathKernel TensorOperations = new();

    /// <summary>
    /// The kernel that is used wherever it can compute what is asked; elsewhere the fastest that can.
    /// </summary>
    /// <exception cref="UserException">The variable names no kernel.</exception>
    public static CudaAttentionKernel Preferred { get; set; } = FromEnvironment();

    /// <summary>The kernel for a block.</summary>
    /// <param name="q">[batch, heads, queries, headDim], on a GPU.</param>
    /// <param name="keys">How many keys the queries attend to.</param>
    /// <returns>Null where no kernel takes the type.</returns>
    public static IAttentionKernel? For(Tensor q, long keys) =>
        Preferred switch
        {
            CudaAttentionKernel.Math when q.is_floating_point() => TensorOperations,
            CudaAttentionKernel.Efficient when IsNarrow(q.dtype) => Efficient,
            CudaAttentionKernel.Flash when CudaFlashKernel.Supports(q) => Flash,
            CudaAttentionKernel.Cudnn when CudaCudnnKernel.Supports(q) => Cudnn,
            _ when CudaCudnnKernel.IsFaster(q) && Math.Min(q.shape[2], keys) >= FewestRowsForCudnn => Cudnn,
            _ when CudaFlashKernel.Supports(q) => Flash,
            _ when IsNarrow(q.dtype) => Efficient,
            _ when q.dtype == ScalarType.Float64 => TensorOperations,
            _ => null,
        };

    private static bool IsNarrow(ScalarType type) =>
        type is ScalarType.Float32 or ScalarType.Float16 or ScalarType.BFloat16;

    private static CudaAttentionKernel FromEnvironment()
    {
        string? name = Environment.GetEnvironmentVariable(Variable);
        if (string.IsNullOrEmpty(name))
            return CudaAttentionKernel.Auto;
        return Enum.TryParse(name, ignoreCase: true, out CudaAttentionKernel kernel) && Enum.IsDefined(kernel)
            ? kernel
            : throw new UserException(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"{Variable} is {name}, but must be auto, flash, cudnn, efficient or math."
                )
            );
    }
}
