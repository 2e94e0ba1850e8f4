namespace LongNet.Core.Attention.Kernels;

/// <summary>What the scripts of the CUDA kernels share.</summary>
/// <remarks>
/// The scripts hold no arithmetic on elements: TorchScript would compile chains of it for the GPU at run time, once
/// more for every shape. Dtypes and memory formats are known to TorchScript by number only.
/// </remarks>
internal static class CudaScript
{
    /// <summary>Blocks along the second axis of a CUDA grid, where these kernels put the batch.</summary>
    public const long LargestBatch = 65535;

    /// <summary>
    /// A function that returns the tensor that stands for none. TorchScript takes no None for a Tensor: it is an output
    /// that an operator was asked to leave out.
    /// </summary>
    public const string Undefined = """
        def undefined() -> Tensor:
            x = torch.zeros([1, 1])
            _, left_out, _ = torch.native_layer_norm_backward(x, x, [1], x, x, None, None, [False, False, False])
            return left_out

        """;

    public const string Source = """
        # The kernels read 16 bytes at a time: the channels become a multiple of 8 (zeros change neither scores nor
        # sums), and a tensor that does not lie on such boundaries is copied. Memory format 0 is contiguous.
        def aligned(x: Tensor) -> Tensor:
            missing = (8 - x.size(3) % 8) % 8
            if missing > 0:
                x = torch.constant_pad_nd(x, [0, missing])
            ready = x.stride(3) == 1 and x.storage_offset() % 8 == 0
            for axis in range(3):
                ready = ready and x.stride(axis) % 8 == 0
            if not ready:
                x = torch.clone(x, memory_format=0)
            return x

        # 1 / sqrt(channels) of the true channels, before alignment.
        def scale_of(x: Tensor) -> float:
            return float(x.size(3)) ** -0.5

        """;
}
