using System.Reflection;
using System.Runtime.InteropServices;
using LongNet.Distributed.Backends.Mpi;
using LongNet.Distributed.Launch;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Doctor;

/// <summary>
/// What one rank knows of itself. Gathered on rank 0 as text, so everything in it is plain; what it means is decided
/// there, where the facts of all ranks lie side by side.
/// </summary>
/// <param name="Rank">In the world.</param>
/// <param name="LocalRanks">Ranks that the launcher says are on this machine.</param>
/// <param name="Host">The machine's name.</param>
/// <param name="Launcher">Who started the rank.</param>
/// <param name="Program">Version of longnet, with its commit, and of .NET.</param>
/// <param name="LibTorch">Version and flavour; null where it was not loaded.</param>
/// <param name="Mpi">Null where no launcher started the process, or it was not loaded.</param>
/// <param name="Settings">What the process has set for speed; null where it came to no settings.</param>
internal sealed record RankFacts(
    int Rank,
    int LocalRanks,
    string Host,
    RankLauncher Launcher,
    string Program,
    string? LibTorch,
    MpiLibrary? Mpi,
    string? Settings,
    ProcessorFacts Processor,
    MemoryFacts Memory,
    GpuFacts Gpus
)
{
    /// <summary>Looks at this process and its machine.</summary>
    /// <param name="environment">What the launcher said.</param>
    /// <param name="libTorchLoaded">Whether libtorch may be asked.</param>
    /// <param name="mpi">The library, once it is loaded.</param>
    /// <param name="settings">What was set for speed.</param>
    public static RankFacts Collect(
        RankEnvironment environment,
        bool libTorchLoaded,
        MpiLibrary? mpi,
        string? settings
    ) =>
        new(
            environment.Rank,
            environment.LocalSize,
            Environment.MachineName,
            environment.Launcher,
            $"longnet {ProgramVersion()}, {RuntimeInformation.FrameworkDescription}",
            libTorchLoaded
                ? $"libtorch {Core.Native.LibTorch.Version ?? "of unknown version"} for "
                    + $"{(Core.Native.LibTorch.BringsCuda ? "CUDA" : "CPUs")}"
                : null,
            mpi,
            settings,
            ProcessorFacts.Collect(environment),
            MemoryFacts.Collect(),
            GpuFacts.Collect(libTorchLoaded)
        );

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
