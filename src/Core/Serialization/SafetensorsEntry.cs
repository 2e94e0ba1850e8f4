using static TorchSharp.torch;

namespace LongNet.Core.Serialization;

/// <summary>
/// A tensor of a safetensors file that is written: what the header says of it, and where its elements come from.
/// </summary>
/// <param name="Name">Its name in the file.</param>
/// <param name="Type">Its dtype.</param>
/// <param name="Shape">Its shape.</param>
/// <param name="Value">
/// Gives the tensor, of that dtype and shape, when it is its turn to be written. What this makes is disposed once it is
/// written, so that one tensor at a time is in memory; what was there before is not.
/// </param>
public sealed record SafetensorsEntry(string Name, ScalarType Type, IReadOnlyList<long> Shape, Func<Tensor> Value)
{
    /// <summary>An entry of a tensor that exists.</summary>
    /// <param name="name">Its name in the file.</param>
    /// <param name="value">Not owned; not changed until it is written.</param>
    public static SafetensorsEntry Of(string name, Tensor value)
    {
        ArgumentNullException.ThrowIfNull(value);
        return new SafetensorsEntry(name, value.dtype, value.shape, () => value);
    }

    internal long Bytes =>
        Shape.Aggregate((long)SafetensorsFormat.ElementBytes(Type), (product, size) => checked(product * size));

    // A tensor that is not what the header says would shift all that follow.
    internal Tensor Make()
    {
        Tensor value = Value();
        return value.dtype == Type && value.shape.SequenceEqual(Shape)
            ? value
            : throw new InvalidOperationException(
                $"Tensor {SafetensorsException.Quote(Name)} was announced as "
                    + $"{SafetensorsFormat.Describe(Type, Shape)} and is "
                    + $"{SafetensorsFormat.Describe(value.dtype, value.shape)}."
            );
    }
}
