using System.CommandLine;
using LongNet.Core;
using LongNet.Trainer.Checkpoints;

namespace LongNet.Trainer.Commands;

/// <summary>
/// longnet checkpoint: what saved checkpoints hold. None of it needs ranks or MPI, and no checkpoint is ever changed.
/// </summary>
internal static class CheckpointCommand
{
    private const string What =
        "A checkpoint's folder, a run's folder, the checkpoints folder in it, or LATEST or BEST there";

    public static Command Create() =>
        new("checkpoint", "Looks at checkpoints, without changing them")
        {
            CheckpointVerifyCommand.Create(),
            CheckpointInspectCommand.Create(),
            CheckpointExportCommand.Create(),
            CheckpointDiffCommand.Create(),
        };

    /// <summary>A path that <see cref="Find"/> takes.</summary>
    public static Argument<string> Path(string name = "PATH", string description = What) =>
        new(name) { Description = description };

    /// <summary>The checkpoint that a person means; of a run the latest.</summary>
    /// <exception cref="UserException">There is none.</exception>
    public static string Find(string path) => CheckpointStore.Find(path) ?? throw NotFound(path);

    public static UserException NotFound(string path) =>
        new(
            $"There is no checkpoint in {path}: name a folder such as runs/NAME/checkpoints/step-00000100, "
                + "or a run's folder."
        );
}
