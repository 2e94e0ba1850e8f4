using static TorchSharp.torch;

namespace LongNet.Core.Serialization;

/// <summary>
/// A tensor of a safetensors file that is written: its description in the header, and the source of its elements.
/// </summary>
/// <param name="Name">Its name in the file.</param>
/// <param name="Type">Its dtype.</param>
/// <param name="Shape">Its shape.</param>
/// <param name="Value">
/// Called when it is the tensor's turn to be written; gives it with that dtype and shape. Tensors created in the call
/// are disposed once they are written, so that one at a time is in memory; tensors that existed before are not.
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
