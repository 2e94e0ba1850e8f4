using static TorchSharp.torch;

namespace LongNet.Core.Native;

/// <summary>
/// Starts oneMKL's vector mathematics (exp, cos, log and their like of tensors) on one thread. Where its first
/// call in a process comes from several threads at once, one that enters while another is still setting it up computes
/// with the lowest accuracy: exp of float64 was seen to be right to 3e-9 only, in one of a hundred processes on a busy
/// machine, and such a run differed from all others in its last bits.
/// </summary>
/// <remarks>One call of any function and type sets up all: seen with exp in float32 before exp in float64.</remarks>
internal static class MklVectorMath
{
    /// <summary>
    /// Starts it. Call once per process, after <see cref="LibTorch.Load"/> and <see cref="MklOnAmd.Apply"/> and before
    /// the first tensor is computed; harmless where libtorch has no oneMKL.
    /// </summary>
    public static void Start()
    {
        using var noGradient = no_grad();
        // One element is never shared between threads.
        using Tensor element = ones(1, ScalarType.Float64, CPU);
        using Tensor result = element.exp();
    }
}
