using System.CommandLine;
using LongNet.Core;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Checkpoints.Tools;

namespace LongNet.Trainer.Commands;

/// <summary>longnet checkpoint verify: whether files are what was written.</summary>
internal static class CheckpointVerifyCommand
{
    public static Command Create()
    {
        Argument<string> path = CheckpointCommand.Path();
        var command = new Command(
            "verify",
            "Checks size, SHA-256 and header of every file: of one checkpoint, or of all that a run has. "
                + "Exit code 2 where one is damaged"
        )
        {
            path,
        };
        command.SetAction(parsed =>
            RankProgram.RunOnRoot(() =>
            {
                string given = parsed.GetRequiredValue(path);
                if (CheckpointStore.FindAll(given) is { } store)
                    VerifyAll(store);
                else
                    Verify(CheckpointCommand.Find(given));
                return 0;
            })
        );
        return command;
    }

    private static void Verify(string checkpoint)
    {
        CheckpointManifest manifest = Manifest(checkpoint);
        VerifiedFile[] files = Files(checkpoint, manifest);
        int name = files.Max(file => file.Name.Length),
            bytes = files.Max(file => $"{file.Bytes}".Length);
        foreach (VerifiedFile file in files)
            Console.WriteLine(
                $"{file.Name.PadRight(name)}  {$"{file.Bytes}".PadLeft(bytes)} bytes  {file.Problem ?? "ok"}"
            );
        CheckpointVerification.ThrowIfDamaged(checkpoint, files);
        Console.WriteLine($"whole: step {manifest.Step}, {Size(files)}");
    }

    private static void VerifyAll(CheckpointStore store)
    {
        var unusable = new List<string>();
        int complete = 0;
        foreach (long step in store.Steps())
        {
            string checkpoint = store.PathOf(step),
                name = CheckpointStore.NameOf(step);
            string finding = Finding(checkpoint, out bool isComplete);
            // A run that is still running may have removed it.
            if (!isComplete && !Directory.Exists(checkpoint))
                continue;
            Console.WriteLine($"{name}  {finding}");
            if (isComplete)
                complete++;
            else
                unusable.Add(name);
        }

        if (unusable.Count > 0)
            throw new UserException(
                $"Of {complete + unusable.Count} checkpoints in {store.Folder}, {unusable.Count} cannot be "
                    + $"used: {string.Join(", ", unusable)}."
            );
        // LATEST and BEST must name a checkpoint that exists.
        foreach (string pointer in new[] { CheckpointStore.LatestFile, CheckpointStore.BestFile })
            _ = CheckpointStore.Find(Path.Combine(store.Folder, pointer));
        Console.WriteLine($"checkpoints that are whole: {complete} of {complete}");
    }

    private static string Finding(string checkpoint, out bool isComplete)
    {
        isComplete = false;
        try
        {
            VerifiedFile[] files = Files(checkpoint, Manifest(checkpoint));
            CheckpointVerification.ThrowIfDamaged(checkpoint, files);
            isComplete = true;
            return $"whole: {Size(files)}";
        }
        catch (DamagedCheckpointException error)
        {
            return $"damaged: {error.File}: {error.Problem}";
        }
        catch (Exception error) when (error is UserException or IOException or UnauthorizedAccessException)
        {
            return error.Message;
        }
    }

    private static CheckpointManifest Manifest(string checkpoint)
    {
        CheckpointManifest manifest = CheckpointVerification.ReadManifest(checkpoint);
        // A folder that is not named after a step is somebody's copy.
        return CheckpointStore.StepOf(Path.GetFileName(checkpoint)) is { } named && named != manifest.Step
            ? throw new DamagedCheckpointException(
                checkpoint,
                CheckpointManifest.FileName,
                $"it is of step {manifest.Step}"
            )
            : manifest;
    }

    // state.json and the files that it names.
    private static VerifiedFile[] Files(string checkpoint, CheckpointManifest manifest) =>
        [
            new VerifiedFile(
                CheckpointManifest.FileName,
                new FileInfo(Path.Combine(checkpoint, CheckpointManifest.FileName)).Length,
                null
            ),
            .. CheckpointVerification.Of(checkpoint, manifest),
        ];

    private static string Size(VerifiedFile[] files) =>
        $"{files.Length} files, {CheckpointSummary.Megabytes(files.Sum(file => file.Bytes))} MB";
}
