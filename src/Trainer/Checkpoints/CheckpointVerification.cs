using System.Runtime.ExceptionServices;
using System.Security.Cryptography;
using LongNet.Core.Serialization;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Checkpoints;

/// <summary>A file of a checkpoint that was looked at.</summary>
/// <param name="Name">File name within the checkpoint's folder.</param>
/// <param name="Bytes">Size that was written.</param>
/// <param name="Problem">What is wrong with it, e.g. "it is missing"; null where it is what was written.</param>
internal sealed record VerifiedFile(string Name, long Bytes, string? Problem);

/// <summary>Whether a checkpoint's files are what was written. Nothing is changed.</summary>
internal static class CheckpointVerification
{
    private const string TensorsExtension = ".safetensors";

    /// <summary>Reads state.json and sees that it lists all that makes a checkpoint.</summary>
    /// <exception cref="DamagedCheckpointException">It is missing, damaged, or lists too little.</exception>
    /// <exception cref="Core.UserException">It is not a checkpoint, or of another version of the program.</exception>
    public static CheckpointManifest ReadManifest(string checkpoint)
    {
        CheckpointManifest manifest = CheckpointManifest.Read(checkpoint);
        // There may be as many as ranks.
        HashSet<string> listed = [.. manifest.Files.Select(file => file.Name)];
        foreach (string required in CheckpointStore.OptimizerFiles(manifest).Prepend(CheckpointStore.ModelFile))
        {
            if (!listed.Contains(required))
                throw new DamagedCheckpointException(
                    checkpoint,
                    CheckpointManifest.FileName,
                    $"it does not list {required}"
                );
        }

        return manifest;
    }

    /// <summary>Checks every file that the manifest names: size, digest, and that what holds tensors says so.</summary>
    /// <returns>One per file, in the manifest's order.</returns>
    public static IReadOnlyList<VerifiedFile> Of(string checkpoint, CheckpointManifest manifest)
    {
        var files = new VerifiedFile[manifest.Files.Count];
        try
        {
            Parallel.For(0, files.Length, f => files[f] = Of(checkpoint, manifest.Files[f]));
        }
        catch (AggregateException several)
        {
            ExceptionDispatchInfo.Throw(several.InnerExceptions[0]);
        }

        return files;
    }

    /// <summary>Checks one file likewise.</summary>
    /// <exception cref="Core.UserException">It cannot be read here and now, which does not tell whether it is
    /// damaged.</exception>
    public static VerifiedFile Of(string checkpoint, CheckpointFile file)
    {
        return new VerifiedFile(file.Name, file.Bytes, ProblemOf(Path.Combine(checkpoint, file.Name), file));
    }

    /// <exception cref="DamagedCheckpointException">A file is not what was written.</exception>
    public static void ThrowIfDamaged(string checkpoint, IEnumerable<VerifiedFile> files)
    {
        if (files.FirstOrDefault(file => file.Problem is not null) is { } damaged)
            throw new DamagedCheckpointException(checkpoint, damaged.Name, damaged.Problem!);
    }

    private static string? ProblemOf(string path, CheckpointFile file)
    {
        try
        {
            if (PlainFile.ProblemOf(path) is { } problem)
                return problem;
            using (
                var content = new FileStream(
                    path,
                    FileMode.Open,
                    FileAccess.Read,
                    FileShare.Read,
                    1 << 20,
                    FileOptions.SequentialScan
                )
            )
            {
                if (content.Length != file.Bytes)
                    return $"it has {content.Length} bytes, and {file.Bytes} were written";
                if (Convert.ToHexStringLower(SHA256.HashData(content)) != file.Sha256)
                    return "its content is not what was written (SHA-256 differs)";
            }

            // One that was written wrongly has the right digest.
            if (path.EndsWith(TensorsExtension, StringComparison.Ordinal))
                SafetensorsReader.Open(path).Dispose();
            return null;
        }
        catch (Exception error) when (PlainFile.IsPassing(error))
        {
            throw PlainFile.Unreadable(path, error);
        }
        catch (SafetensorsException error)
        {
            return $"it is not a valid safetensors file ({error.Problem})";
        }
        catch (Exception error) when (PlainFile.IsDamage(error))
        {
            return $"it cannot be read: {error.Message}";
        }
    }
}
