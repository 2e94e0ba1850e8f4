using static TorchSharp.torch;

namespace LongNet.Trainer.Configuration;

/// <summary>The types of numbers that a model can have, by the names of configurations, options and reports.</summary>
internal static class TypeNames
{
    public const string Float32 = "float32",
        BFloat16 = "bfloat16",
        Float16 = "float16";

    private static readonly Dictionary<string, ScalarType> Types = new()
    {
        [Float32] = ScalarType.Float32,
        [BFloat16] = ScalarType.BFloat16,
        [Float16] = ScalarType.Float16,
    };

    /// <summary>All names, the widest type first.</summary>
    public static IReadOnlyCollection<string> All => Types.Keys;

    /// <exception cref="ArgumentException">The type has no name here.</exception>
    public static string Of(ScalarType type) =>
        Types.FirstOrDefault(entry => entry.Value == type).Key
        ?? throw new ArgumentException($"The type {type} is none of {string.Join(", ", All)}.", nameof(type));

    /// <exception cref="ArgumentException">No type has the name.</exception>
    public static ScalarType Parse(string name) =>
        Types.TryGetValue(name, out ScalarType type)
            ? type
            : throw new ArgumentException($"The type {name} is none of {string.Join(", ", All)}.", nameof(name));

    /// <summary>The type that precision.compute chooses.</summary>
    public static ScalarType TypeOf(ComputePrecision precision) => Parse(KeyName.OfValue(precision));

    /// <summary>The type that precision.reduce chooses.</summary>
    public static ScalarType TypeOf(ReducePrecision precision) => Parse(KeyName.OfValue(precision));
}
