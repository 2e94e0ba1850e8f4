using static TorchSharp.torch;

namespace LongNet.Core.Optimization;

/// <summary>A tensor that an optimizer updates: a parameter, or this process's part of one.</summary>
/// <param name="Name">The parameter's name.</param>
/// <param name="Values">Updated in place; contiguous. Not owned.</param>
/// <param name="Gradient">Of the same shape; read at every step. Not owned.</param>
/// <param name="Decays">Whether weight decay applies: to matrices, not to norms and biases.</param>
internal sealed record OptimizedTensor(string Name, Tensor Values, Tensor Gradient, bool Decays)
{
    /// <summary>
    /// Whether a parameter decays: matrices do. Asked of the complete parameter, as a part of one is flat.
    /// </summary>
    public static bool DecaysFor(Tensor parameter)
    {
        ArgumentNullException.ThrowIfNull(parameter);
        return parameter.dim() >= 2;
    }
}
