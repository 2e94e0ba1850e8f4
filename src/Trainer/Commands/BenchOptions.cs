using System.CommandLine;
using LongNet.Trainer.Configuration;
using static TorchSharp.torch;

namespace LongNet.Trainer.Commands;

/// <summary>Options of several benchmarks.</summary>
internal static class BenchOptions
{
    /// <summary>Types by their names on the command line; no model can have the last one.</summary>
    public static IReadOnlyDictionary<string, ScalarType> Types { get; } =
        new Dictionary<string, ScalarType>
        {
            [TypeNames.Float32] = ScalarType.Float32,
            [TypeNames.BFloat16] = ScalarType.BFloat16,
            ["float64"] = ScalarType.Float64,
        };

    public static Option<string> ComputeType() =>
        new Option<string>("--dtype")
        {
            Description = "Compute type",
            DefaultValueFactory = _ => TypeNames.Float32,
        }.MustBeOneOf(Types.Keys);

    public static Option<int?> Threads() => new("--threads") { Description = "CPU threads; default: all" };

    /// <summary>How often each piece of work is timed, where the shortest time counts.</summary>
    public static Option<int> Rounds(int standard) =>
        new("--rounds")
        {
            Description = "Times that each is measured; the shortest counts",
            DefaultValueFactory = _ => standard,
        };
}
