using static TorchSharp.torch;

namespace LongNet.Core.Serialization;

/// <summary>
/// The file format's constants: an unsigned little-endian 64-bit header length, a JSON header that maps each name to
/// dtype, shape and byte range, then the data. https://huggingface.co/docs/safetensors.
/// </summary>
internal static class SafetensorsFormat
{
    /// <summary>Bytes of the header length at the file's start.</summary>
    public const int LengthBytes = 8;

    /// <summary>Longest header that is read: the limit of the reference implementation.</summary>
    public const int MaxHeaderBytes = 100_000_000;

    /// <summary>The data starts at a multiple of this, so that every dtype's elements are aligned.</summary>
    public const int Alignment = 8;

    /// <summary>Most dimensions a tensor may have: what libtorch's kernels allow.</summary>
    public const int MaxDimensions = 64;

    /// <summary>The header's only key that is no tensor.</summary>
    public const string MetadataKey = "__metadata__";

    private static readonly (string Name, ScalarType Type, int Bytes)[] Types =
    [
        ("F64", ScalarType.Float64, 8),
        ("F32", ScalarType.Float32, 4),
        ("F16", ScalarType.Float16, 2),
        ("BF16", ScalarType.BFloat16, 2),
        ("I64", ScalarType.Int64, 8),
        ("I32", ScalarType.Int32, 4),
        ("I16", ScalarType.Int16, 2),
        ("I8", ScalarType.Int8, 1),
        ("U8", ScalarType.Byte, 1),
        ("BOOL", ScalarType.Bool, 1),
    ];

    /// <summary>The dtypes' names in the file, for messages.</summary>
    public static string TypeNames => string.Join(", ", Types.Select(type => type.Name));

    public static int ElementBytes(ScalarType type) => Types.Single(known => known.Type == type).Bytes;

    /// <summary>The dtype's name in the file, or null if the format has none for it.</summary>
    public static string? NameOf(ScalarType type) => Types.FirstOrDefault(known => known.Type == type).Name;

    /// <summary>The dtype of a name in the file, or null if libtorch has none for it.</summary>
    public static ScalarType? TypeOf(string name)
    {
        foreach (var known in Types)
        {
            if (known.Name == name)
            {
                return known.Type;
            }
        }

        return null;
    }

    /// <summary>A dtype and shape as messages show them, e.g. "F32 [2, 3]".</summary>
    public static string Describe(ScalarType type, IEnumerable<long> shape) =>
        $"{NameOf(type) ?? type.ToString()} [{string.Join(", ", shape)}]";
}
