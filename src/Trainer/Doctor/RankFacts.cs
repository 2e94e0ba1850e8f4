using System.Reflection;
using System.Runtime.InteropServices;
using LongNet.Distributed.Backends.Mpi;
using LongNet.Distributed.Launch;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Doctor;

/// <summary>
/// What one rank knows about itself and its machine. Rank 0 gathers it as JSON, so all of it is plain data; rank 0 also
/// judges it, because only there the facts of all ranks lie side by side.
/// </summary>
internal sealed record RankFacts
{
    /// <summary>In the world.</summary>
    public required int Rank { get; init; }

    /// <summary>Ranks on this machine, according to the launcher.</summary>
    public required int LocalRanks { get; init; }

    /// <summary>The machine's name.</summary>
    public required string Host { get; init; }

    /// <summary>Who started the rank.</summary>
    public required RankLauncher Launcher { get; init; }

    /// <summary>Version of longnet, with its commit, and of .NET.</summary>
    public required string Program { get; init; }

    /// <summary>Version and flavour; null where it was not loaded.</summary>
    public string? LibTorch { get; init; }

    /// <summary>Null where no launcher started the process, or the library was not loaded.</summary>
    public MpiLibrary? Mpi { get; init; }

    /// <summary>What the process has set for speed; null where ranks could not start.</summary>
    public ProcessSettings? Settings { get; init; }

    public required ProcessorFacts Processor { get; init; }

    public required MemoryFacts Memory { get; init; }

    public required GpuFacts Gpus { get; init; }

    /// <summary>Collects the facts of this process and its machine.</summary>
    /// <param name="environment">According to the launcher.</param>
    /// <param name="libTorchLoaded">Whether libtorch may be called.</param>
    /// <param name="mpi">The library, where it is loaded.</param>
    /// <param name="settings">What was set for speed.</param>
    public static RankFacts Collect(
        RankEnvironment environment,
        bool libTorchLoaded,
        MpiLibrary? mpi,
        ProcessSettings? settings
    ) =>
        new()
        {
            Rank = environment.Rank,
            LocalRanks = environment.LocalSize,
            Host = Environment.MachineName,
            Launcher = environment.Launcher,
            Program = $"longnet {ProgramVersion()}, {RuntimeInformation.FrameworkDescription}",
            LibTorch = libTorchLoaded
                ? $"libtorch {Core.Native.LibTorch.Version ?? "of unknown version"} for "
                    + $"{(Core.Native.LibTorch.BringsCuda ? "CUDA" : "CPUs")}"
                : null,
            Mpi = mpi,
            Settings = settings,
            Processor = ProcessorFacts.Collect(environment),
            Memory = MemoryFacts.Collect(),
            Gpus = GpuFacts.Collect(libTorchLoaded),
        };

    // The commit's first characters say enough.
    private static string ProgramVersion()
    {
        string version = typeof(RankFacts)
            .Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()!
            .InformationalVersion;
        string[] parts = version.Split('+');
        return parts.Length == 1 ? version : $"{parts[0]} (commit {parts[1][..Math.Min(8, parts[1].Length)]})";
    }
}
