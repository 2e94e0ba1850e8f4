using TorchSharp.Modules;
using static TorchSharp.torch;

namespace LongNet.Core.Numerics;

/// <summary>
/// Layers applied to tensors that are less precise than their parameters: matrix products are computed in the input's
/// type from parameters rounded to it, normalizations as the parameters are. Gradients of parameters arrive in the
/// parameters' own type, so float32 master weights need no copy (Micikevicius et al., arXiv:1710.03740, section 3.1).
/// </summary>
internal static class MixedPrecision
{
    /// <param name="layer">Not disposed.</param>
    /// <param name="input">[…, channels]. Not disposed.</param>
    /// <returns>In the input's type. Differentiable; owned by the caller.</returns>
    public static Tensor Apply(Linear layer, Tensor input)
    {
        if (layer.weight!.dtype == input.dtype)
            return layer.forward(input);
        using var scope = NewDisposeScope();
        return nn
            .functional.linear(input, layer.weight.to(input.dtype), layer.bias?.to(input.dtype))
            .MoveToOuterDisposeScope();
    }

    /// <inheritdoc cref="Apply(Linear, Tensor)"/>
    public static Tensor Apply(LayerNorm layer, Tensor input) =>
        Normalize(input, layer.weight!, layer.bias!, layer.eps);

    /// <param name="input">[…, channels]. Not disposed.</param>
    /// <param name="weight">[channels]. Not disposed.</param>
    /// <param name="bias">[channels]. Not disposed.</param>
    /// <param name="epsilon">Added to the variance.</param>
    /// <returns>
    /// In the input's type; statistics are those of the weight's. Differentiable; owned by the caller.
    /// </returns>
    public static Tensor Normalize(Tensor input, Tensor weight, Tensor bias, double epsilon)
    {
        long[] channels = weight.shape;
        // libtorch takes an input in 16 bits with parameters in float32 on the CPU, and computes in float32.
        if (weight.dtype == input.dtype || input.device_type == TorchSharp.DeviceType.CPU)
            return nn.functional.layer_norm(input, channels, weight, bias, epsilon);
        using var scope = NewDisposeScope();
        return nn
            .functional.layer_norm(input.to(weight.dtype), channels, weight, bias, epsilon)
            .to(input.dtype)
            .MoveToOuterDisposeScope();
    }
}
