using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Tests.Ranks;

namespace LongNet.Trainer.Tests.Commands;

/// <summary>A user's error: one message from rank 0, exit code 2 within seconds, nothing written.</summary>
public sealed class UserErrorTests : IDisposable
{
    private static readonly string Config = Repository.PathOf("configs/ranks-agree.yaml");

    // Starting two ranks takes seconds on a busy machine; without an orderly end they would hang.
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(30);

    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Theory]
    [InlineData("", "Required command was not provided.")]
    [InlineData("trian", "There is no command \"trian\"; did you mean \"train\"?")]
    [InlineData("train", "Option '--config' is required.")]
    [InlineData("train --config ranks-agree --steps x", "--steps is x, but must be a whole number of at least 1.")]
    public void CommandLine_Mistaken_SaysSoAndPointsToHelp(string arguments, string message)
    {
        ProgramResult result = RunAlone(arguments.Split(' ', StringSplitOptions.RemoveEmptyEntries));
        Assert.Equal($"longnet: {message}\nlongnet: --help shows what there is.\n", result.Error);
        Assert.Equal(2, result.ExitCode);
    }

    [Fact]
    public void CommandLine_EmptyOutput_IsRefused() =>
        Assert.StartsWith(
            "longnet: --output is empty: name a run directory.",
            RunAlone(["train", "--config", Config, "--output", ""]).Error,
            StringComparison.Ordinal
        );

    [Theory]
    [InlineData("model.heads=5", "model.heads (5) must divide model.d_model (64): 4 heads would.")]
    [InlineData("modle.heads=5", "--set modle.heads=5: unknown key \"modle\"; did you mean \"model\"?")]
    [InlineData("data.path=-", "--set data.path=-: data.path is \"\", but must be text.")]
    [InlineData("data.path=&p [*p]", "--set data.path=&p [*p]: the value is not valid YAML.")]
    [InlineData("model.layers=100000000000", "model.layers is 100000000000, but must be at most 10000.")]
    [InlineData("model.vocabulary=1000000000000", "model.vocabulary is 1000000000000, but must be at most 16777216.")]
    [InlineData(
        "optimizer.min_lr=1",
        "optimizer.min_lr (1) is above optimizer.lr (0.001): the rate decays from lr to min_lr."
    )]
    [InlineData("data.path=/nowhere", "data.path /nowhere does not exist: name a file, a directory or a glob of text.")]
    [InlineData(
        "parallel.sequence=2",
        "parallel: sequence (2) does not divide the 1 rank that was started. Start 2 ranks, or set sequence: 1."
    )]
    [InlineData("training.sequence_length=1000000", "data.path holds")]
    public void Train_MistakenConfiguration_IsTold(string set, string message)
    {
        ProgramResult result = RunAlone([.. TrainingJob.Arguments(Config, folder["run"]), "--set", set]);
        Assert.StartsWith($"longnet: {message}", result.Error, StringComparison.Ordinal);
        Assert.Single(Lines(result));
        Assert.Equal(2, result.ExitCode);
        Assert.False(Directory.Exists(folder["run"]));
    }

    [Theory]
    [InlineData(
        MpiKind.OpenMpi,
        2,
        "parallel.data=3",
        "parallel: data (3) does not divide the 2 ranks that were started. Start 3 ranks, or set data: 2."
    )]
    [InlineData(
        MpiKind.Mpich,
        2,
        "parallel.data=3",
        "parallel: data (3) does not divide the 2 ranks that were started. Start 3 ranks, or set data: 2."
    )]
    [InlineData(
        MpiKind.OpenMpi,
        2,
        "model.attention.segment_lengths=[64,128,100,512]",
        "Branch (w = 100, r = 4) does not fit 2 ranks with 256 rows each:"
    )]
    [InlineData(
        MpiKind.OpenMpi,
        2,
        "model.attention={segment_lengths: [131072], dilation_rates: [64]}\ntraining.sequence_length=131072",
        "xPos over blocks of 131072 rows"
    )]
    [InlineData(
        MpiKind.OpenMpi,
        2,
        "model.initial_weights=/nowhere/start.safetensors",
        "model.initial_weights: Cannot read /nowhere/start.safetensors:"
    )]
    [InlineData(MpiKind.OpenMpi, 3, "seed=2", "A sequence of 512 rows cannot be shared evenly by 3 ranks:")]
    [InlineData(MpiKind.OpenMpi, 2, "output=/proc/nowhere", "The run directory /proc/nowhere cannot be written:")]
    public void Train_MistakeOnSeveralRanks_IsToldOnceAndAllAreGone(MpiKind kind, int ranks, string set, string message)
    {
        ProgramResult result = RankTests
            .Launcher(kind)
            .Run(
                ranks,
                Repository.LongNet,
                ["train", "--config", Config, .. set.Split('\n').SelectMany(each => new[] { "--set", each })],
                folder.Path
            );
        Assert.StartsWith($"longnet: {message}", Assert.Single(Lines(result)), StringComparison.Ordinal);
        Assert.Equal(2, result.ExitCode);
        Assert.True(result.Elapsed < Soon, $"it took {result.Elapsed}");
        Assert.Empty(Directory.GetFileSystemEntries(folder.Path));
    }

    [Fact]
    public void Train_WithoutTheMpiLibrary_NamesThePackage()
    {
        ProgramResult result = RankTests
            .Launcher(MpiKind.OpenMpi)
            .Run(
                2,
                Repository.LongNet,
                TrainingJob.Arguments(Config, folder["run"]),
                environment: new Dictionary<string, string?> { ["LONGNET_MPI_LIBRARY"] = "libnowhere.so" }
            );
        Assert.Equal(
            "longnet: Open MPI's mpiexec started this process, but Open MPI's library libnowhere.so cannot be loaded: "
                + "install Open MPI (Debian packages: openmpi-bin libopenmpi3), or set LONGNET_MPI_LIBRARY to "
                + "the library's path.",
            Assert.Single(Lines(result))
        );
        Assert.Equal(2, result.ExitCode);
    }

    [Fact]
    public void Train_LibraryThatIsNoMpi_SaysSo()
    {
        ProgramResult result = RankTests
            .Launcher(MpiKind.OpenMpi)
            .Run(
                2,
                Repository.LongNet,
                TrainingJob.Arguments(Config, folder["run"]),
                environment: new Dictionary<string, string?> { ["LONGNET_MPI_LIBRARY"] = "libc.so.6" }
            );
        Assert.Equal(
            "longnet: The library libc.so.6 exports no MPI_Init_thread, so it is no MPI library: set "
                + "LONGNET_MPI_LIBRARY to the one mpiexec belongs to.",
            Assert.Single(Lines(result))
        );
        Assert.Equal(2, result.ExitCode);
    }

    [Fact]
    public void Train_OverARunWithACheckpoint_RefusesUnlessToldToResume()
    {
        string[] arguments = [.. TrainingJob.Arguments(Config, folder["run"]), "--steps", "2"];
        RunAlone(arguments).AssertSuccess();
        byte[] before = File.ReadAllBytes(folder["run/checkpoints/step-00000002/model.safetensors"]);

        ProgramResult again = RunAlone(arguments);
        Assert.Equal(
            $"longnet: {folder["run"]} already has a checkpoint of step 2: add --resume auto to go on from "
                + "it, or --output DIR to start another run.\n",
            again.Error
        );
        Assert.Equal(2, again.ExitCode);

        ProgramResult resumed = RunAlone([.. arguments, "--resume", "auto"]).AssertSuccess();
        Assert.EndsWith(
            "Nothing to do: step 2 of 2 is done. Raise training.steps (--set training.steps=N) to train on.\n",
            resumed.Output,
            StringComparison.Ordinal
        );
        Assert.Equal(before, File.ReadAllBytes(folder["run/checkpoints/step-00000002/model.safetensors"]));

        ProgramResult another = RunAlone([.. arguments, "--resume", "auto", "--set", "model.layers=1"]);
        Assert.StartsWith(
            $"longnet: {folder["run"]}/checkpoints/step-00000002/model.safetensors belongs to another "
                + "model: this model has no layers.1.",
            another.Error,
            StringComparison.Ordinal
        );
        Assert.Equal(2, another.ExitCode);

        File.WriteAllBytes(folder["run/checkpoints/step-00000002/model.safetensors"], before[..^1]);
        ProgramResult damaged = RunAlone([.. arguments, "--resume", "auto"]);
        Assert.Equal(
            $"longnet: No checkpoint in {folder["run"]}/checkpoints is whole: step-00000002: "
                + $"model.safetensors: it has {before.Length - 1} bytes, "
                + $"and {before.Length} were written. Start from another run's with --resume PATH, or start "
                + "anew with another --output.\n",
            damaged.Error
        );
        Assert.Equal(2, damaged.ExitCode);
    }

    [Fact]
    public void Train_LossThatIsNotFinite_StopsAndKeepsTheCheckpoint()
    {
        ProgramResult result = RunAlone([
            .. TrainingJob.Arguments(Config, folder["run"]),
            "--set",
            "optimizer.lr=1e30",
            "--set",
            "optimizer.warmup_steps=0",
            "--set",
            "checkpoint.every_steps=1",
        ]);
        Assert.Matches(
            "^longnet: Step [0-9]+ has loss NaN and gradient norm NaN, so training cannot go on: lower "
                + "optimizer.lr or lengthen "
                + "optimizer.warmup_steps, and go on from the last checkpoint with --resume auto.\n$",
            result.Error
        );
        Assert.Equal(2, result.ExitCode);
        Assert.True(File.Exists(folder["run/checkpoints/step-00000001/model.safetensors"]));
    }

    private static ProgramResult RunAlone(string[] arguments) =>
        ProgramRun.ToEnd(TimeSpan.FromMinutes(2), Repository.LongNet, arguments);

    // mpiexec adds lines of its own.
    private static string[] Lines(ProgramResult result) =>
        [.. result.Error.Split('\n').Where(line => line.StartsWith("longnet: ", StringComparison.Ordinal))];
}
