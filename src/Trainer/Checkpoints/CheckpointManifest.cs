using System.Text.Json;
using System.Text.Json.Serialization;
using LongNet.Core;

namespace LongNet.Trainer.Checkpoints;

/// <summary>One file of a checkpoint.</summary>
/// <param name="Name">File name within the checkpoint's folder.</param>
/// <param name="Bytes">Size.</param>
/// <param name="Sha256">Digest of the content, lower-case hexadecimal.</param>
public sealed record CheckpointFile(string Name, long Bytes, string Sha256);

/// <summary>The ranks that wrote a checkpoint; it can be read by any others.</summary>
public sealed record CheckpointMesh(int Data, int Sequence);

/// <summary>What a checkpoint's manifest.json says.</summary>
public sealed record CheckpointManifest
{
    public const string FileName = "manifest.json";

    /// <summary>Says that the folder is a checkpoint of this program.</summary>
    public const string ExpectedFormat = "longnet-checkpoint";

    /// <summary>Version of a checkpoint whose optimizer state is one file. Raised when older programs can no longer read what is written.</summary>
    public const int UnshardedVersion = 1;

    /// <summary>Version of one whose optimizer state lies in shards, which programs that know <see cref="UnshardedVersion"/> alone refuse.</summary>
    public const int ShardedVersion = 2;

    private const int NewestVersion = ShardedVersion;

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        WriteIndented = true,
        RespectNullableAnnotations = true,
        RespectRequiredConstructorParameters = true,
    };

    public required string Format { get; init; }

    public required int FormatVersion { get; init; }

    /// <summary>Version of the program that wrote it.</summary>
    public required string Software { get; init; }

    /// <summary>Optimizer steps done.</summary>
    public required long Step { get; init; }

    /// <summary>The global sample cursor: sequences that the whole job has trained on.</summary>
    public required long SequencesConsumed { get; init; }

    /// <summary>Target tokens that the whole job has trained on.</summary>
    public required long TokensConsumed { get; init; }

    /// <summary>The only random state there is: every random choice is a function of the seed and of the numbers above.</summary>
    public required long Seed { get; init; }

    public required CheckpointMesh Mesh { get; init; }

    /// <summary>CPU threads that each rank had; with another number, sums are made in another order.</summary>
    public required int ThreadsPerRank { get; init; }

    /// <summary>Sequences per data-parallel rank at once; likewise.</summary>
    public required long MicroBatchSize { get; init; }

    /// <summary>Fingerprint of the corpus.</summary>
    public required string Corpus { get; init; }

    /// <summary>Files that the optimizer state lies in, one per rank that wrote it; null where it is one file for all.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public int? OptimizerShards { get; init; }

    public required IReadOnlyList<CheckpointFile> Files { get; init; }

    public string ToJson() => JsonSerializer.Serialize(this, Json) + "\n";

    /// <exception cref="UserException">The file is missing, damaged, another program's, or newer than this program.</exception>
    public static CheckpointManifest Read(string checkpoint)
    {
        string path = Path.Combine(checkpoint, FileName);
        if (!File.Exists(path))
            throw new UserException($"{checkpoint} is no checkpoint: it has no {FileName}. Name a folder such as runs/NAME/checkpoints/step-00000100.");
        try
        {
            byte[] text = File.ReadAllBytes(path);
            using JsonDocument document = JsonDocument.Parse(text);
            // The version is looked at before anything else: a newer manifest may have other keys.
            string? format = document.RootElement.ValueKind == JsonValueKind.Object && document.RootElement.TryGetProperty("format", out JsonElement name) && name.ValueKind == JsonValueKind.String
                ? name.GetString() : null;
            if (format != ExpectedFormat)
                throw new UserException($"{path} is not a manifest of this program: its \"format\" is not \"{ExpectedFormat}\". Resume from a checkpoint that longnet wrote.");
            if (document.RootElement.TryGetProperty("format_version", out JsonElement version) && version.TryGetInt32(out int number) && number > NewestVersion)
                throw new UserException($"{path} has format version {number}, and this program reads up to {NewestVersion}: use the newer longnet that wrote it.");
            CheckpointManifest manifest = JsonSerializer.Deserialize<CheckpointManifest>(text, Json)!;
            if (manifest.Step < 0 || manifest.SequencesConsumed < 0 || manifest.TokensConsumed < 0 || manifest.OptimizerShards < 1 || manifest.Files.Any(file => file is null))
                throw new JsonException("it has a count below zero or a file without a name");
            return manifest;
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            throw new UserException($"{path} is damaged ({error.Message.Split('.')[0]}): resume from another checkpoint with --resume PATH.");
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw new UserException($"{path} cannot be read: {error.Message}");
        }
    }
}
