using System.Reflection;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Unicode;
using LongNet.Core;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Checkpoints;

/// <summary>One file of a checkpoint.</summary>
/// <param name="Name">File name within the checkpoint's folder.</param>
/// <param name="Bytes">Size.</param>
/// <param name="Sha256">Digest of the content, lower-case hexadecimal.</param>
internal sealed record CheckpointFile(string Name, long Bytes, string Sha256);

/// <summary>The ranks that wrote a checkpoint; it can be read by any others.</summary>
internal sealed record CheckpointMesh(int Data, int Sequence);

/// <summary>
/// The learning rate as a function of the step, with every number that the configuration may leave open.
/// </summary>
internal sealed record CheckpointSchedule(double Lr, double MinLr, long WarmupSteps, long DecaySteps);

/// <summary>State of dynamic loss scaling.</summary>
/// <param name="Scale">What the next step's loss is multiplied by; a power of two.</param>
/// <param name="GoodSteps">Steps without an overflow since it last changed.</param>
/// <param name="SkippedSteps">Steps in all that were skipped because of an overflow.</param>
internal sealed record CheckpointLossScaler(double Scale, long GoodSteps, long SkippedSteps)
{
    // The largest power of two that is a float32.
    private const double LargestScale = 1.7014118346046923e38;

    /// <summary>Whether the scale is one that multiplying and dividing by rounds nothing.</summary>
    internal bool HasExactScale => Scale is >= 1 and <= LargestScale && Math.ScaleB(1, Math.ILogB(Scale)) == Scale;
}

/// <summary>What wrote a checkpoint.</summary>
internal sealed record CheckpointVersions(string Longnet, string Torch, string Dotnet)
{
    public static CheckpointVersions Current { get; } =
        new(
            typeof(CheckpointVersions)
                .Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()
                ?.InformationalVersion
                ?? "unknown",
            TorchSharp.torch.__version__,
            Environment.Version.ToString()
        );
}

/// <summary>
/// The content of a checkpoint's state.json. docs/checkpoints.md describes the format and what it promises.
/// </summary>
internal sealed record CheckpointManifest
{
    public const string FileName = "state.json";

    /// <summary>Says that the folder is a checkpoint of this program.</summary>
    public const string ExpectedFormat = "longnet-checkpoint";

    /// <summary>Raised when older programs can no longer read what is written.</summary>
    public const int CurrentVersion = 3;

    /// <summary>Most bytes of a state.json that is read: the files of a hundred thousand ranks.</summary>
    public const int MaxBytes = 16 << 20;

    /// <summary>The last key of the file: the digest of all before it.</summary>
    internal const string DigestKey = "sha256";

    // What formats 1 and 2, which were never released, had in its place.
    private const string OldFileName = "manifest.json";

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        WriteIndented = true,
        NewLine = "\n",
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        RespectNullableAnnotations = true,
        RespectRequiredConstructorParameters = true,
        AllowDuplicateProperties = false,
    };

    private static readonly JsonDocumentOptions Strict = new() { AllowDuplicateProperties = false };

    public string Format { get; init; } = ExpectedFormat;

    public int FormatVersion { get; init; } = CurrentVersion;

    public required CheckpointVersions Versions { get; init; }

    /// <summary>Optimizer steps done.</summary>
    public required long Step { get; init; }

    /// <summary>The global sample cursor: sequences that all ranks together have trained on.</summary>
    public required long SequencesConsumed { get; init; }

    /// <summary>Target tokens that all ranks together have trained on.</summary>
    public required long TokensConsumed { get; init; }

    /// <summary>
    /// The only random state there is: every random choice is a function of the seed and of the numbers above.
    /// </summary>
    public required long Seed { get; init; }

    public required CheckpointSchedule LearningRateSchedule { get; init; }

    /// <summary>Null where losses are not scaled, as in float32.</summary>
    public CheckpointLossScaler? LossScaler { get; init; }

    /// <summary>
    /// Mean cross-entropy per held-out token after this step, in nats; null where this step had no evaluation.
    /// </summary>
    public double? ValidationLoss { get; init; }

    public required CheckpointMesh Mesh { get; init; }

    /// <summary>CPU threads that each rank had; with another number, sums are made in another order.</summary>
    public required int ThreadsPerRank { get; init; }

    /// <summary>Sequences per data-parallel rank at once; likewise.</summary>
    public required long MicroBatchSize { get; init; }

    /// <summary>Whether ranks shared the optimizer's state among them; likewise.</summary>
    public required bool OptimizerSharded { get; init; }

    /// <summary>Files that the optimizer state lies in: one per rank that wrote some.</summary>
    public required int OptimizerShards { get; init; }

    /// <summary>Fingerprint of the corpus.</summary>
    public required string Corpus { get; init; }

    /// <summary>The run's configuration, every default written out.</summary>
    public required JsonElement Config { get; init; }

    /// <summary>Every file of the checkpoint but this one.</summary>
    public required IReadOnlyList<CheckpointFile> Files { get; init; }

    /// <summary>
    /// The text of the file, whose last key is the digest of all before it. A validation loss that is no number is left
    /// out, as JSON has none.
    /// </summary>
    public string ToJson()
    {
        string text = JsonSerializer.Serialize(
            this with
            {
                ValidationLoss = ValidationLoss is double loss && double.IsFinite(loss) ? loss : null,
            },
            Json
        );
        string content = text[..^"\n}".Length];
        return content + Seal(Encoding.UTF8.GetBytes(content));
    }

    /// <exception cref="DamagedCheckpointException">The file is missing or damaged.</exception>
    /// <exception cref="UserException">It is another program's, or newer than this program.</exception>
    public static CheckpointManifest Read(string checkpoint)
    {
        string path = Path.Combine(checkpoint, FileName);
        if (!File.Exists(path))
            throw Missing(checkpoint);
        if (PlainFile.ProblemOf(path) is { } problem)
            throw Damaged(checkpoint, problem);
        try
        {
            return Parse(checkpoint, ReadText(checkpoint, path));
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException)
        {
            throw Damaged(
                checkpoint,
                $"it is not what was written ({CheckpointStore.Shown(error.Message.Split('.')[0])})"
            );
        }
        catch (Exception error) when (PlainFile.IsPassing(error))
        {
            throw PlainFile.Unreadable(path, error);
        }
        catch (Exception error) when (PlainFile.IsDamage(error))
        {
            throw Damaged(checkpoint, $"it cannot be read: {error.Message}");
        }
    }

    /// <summary>How the file ends: no byte before the digest, and none after it, can change unnoticed.</summary>
    /// <param name="content">All before it.</param>
    internal static string Seal(ReadOnlySpan<byte> content) =>
        $",\n  \"{DigestKey}\": \"{Convert.ToHexStringLower(SHA256.HashData(content))}\"\n}}\n";

    private static DamagedCheckpointException Damaged(string checkpoint, string problem) =>
        new(checkpoint, FileName, problem);

    private static UserException Missing(string checkpoint)
    {
        if (File.Exists(Path.Combine(checkpoint, OldFileName)))
            return new UserException(
                $"{checkpoint} is of a format before version {CurrentVersion}, which this program no "
                    + "longer reads: use the longnet that wrote it."
            );
        if (Directory.Exists(checkpoint) && CheckpointStore.StepOf(Path.GetFileName(checkpoint)) is not null)
            return Damaged(checkpoint, "it is missing");
        return new UserException(
            $"{checkpoint} is no checkpoint: it has no {FileName}. Name a folder such as "
                + "runs/NAME/checkpoints/step-00000100."
        );
    }

    private static byte[] ReadText(string checkpoint, string path)
    {
        long length = new FileInfo(path).Length;
        return length <= MaxBytes
            ? File.ReadAllBytes(path)
            : throw Damaged(checkpoint, $"it has {length} bytes, and at most {MaxBytes} are ever written");
    }

    private static CheckpointManifest Parse(string checkpoint, byte[] text)
    {
        // Before anything else: a newer version may have other keys.
        RequireVersion(checkpoint, text);
        CheckpointManifest manifest = JsonSerializer.Deserialize<CheckpointManifest>(text, Json)!;
        manifest.Check();
        // Last, as a digest does not say where the difference is.
        return IsSealed(text)
            ? manifest
            : throw Damaged(checkpoint, "its content is not what was written (SHA-256 differs)");
    }

    private static void RequireVersion(string checkpoint, byte[] text)
    {
        using JsonDocument document = JsonDocument.Parse(text, Strict);
        JsonElement root = document.RootElement;
        bool isOfThisProgram =
            root.ValueKind == JsonValueKind.Object
            && root.TryGetProperty("format", out JsonElement format)
            && format.ValueKind == JsonValueKind.String
            && format.GetString() == ExpectedFormat;
        if (!isOfThisProgram)
            throw Damaged(checkpoint, $"its \"format\" is not \"{ExpectedFormat}\"");
        if (
            !root.TryGetProperty("format_version", out JsonElement version)
            || version.ValueKind != JsonValueKind.Number
            || !version.TryGetInt32(out int number)
        )
            throw Damaged(checkpoint, "its \"format_version\" is no whole number");
        if (number != CurrentVersion)
        {
            throw new UserException(
                $"{Path.Combine(checkpoint, FileName)} has format version {number}, and this program reads "
                    + $"{CurrentVersion}: use the {(number > CurrentVersion ? "newer " : "")}longnet that wrote it."
            );
        }
    }

    private static bool IsSealed(ReadOnlySpan<byte> text)
    {
        int end = text.Length - Seal([]).Length;
        return end > 0 && text[end..].SequenceEqual(Encoding.UTF8.GetBytes(Seal(text[..end])));
    }

    // The rules that its types do not express.
    private void Check()
    {
        Require(Step >= 0 && SequencesConsumed >= 0 && TokensConsumed >= 0, "a count is below zero");
        Require(Mesh is { Data: >= 1, Sequence: >= 1 }, "its mesh has no ranks");
        Require(
            double.IsFinite(ValidationLoss ?? 0)
                && double.IsFinite(LearningRateSchedule.Lr)
                && double.IsFinite(LearningRateSchedule.MinLr),
            "a number is out of range"
        );
        Require(LossScaler?.HasExactScale ?? true, "its loss scale is no power of two from 1 to 2^127");
        Require(
            InSteps(LossScaler?.GoodSteps) && InSteps(LossScaler?.SkippedSteps),
            "its loss_scaler counts steps that there were not"
        );
        Require(Config.ValueKind == JsonValueKind.Object, "its config is no object");
        Require(Utf8.IsValid(JsonMarshal.GetRawUtf8Value(Config)), "its config is no UTF-8");
        ReadTexts(Config);
        Require(
            Files.All(file => file is { Bytes: >= 0, Sha256: not null } && IsPlainName(file.Name)),
            "a file has no plain name or a size below zero"
        );
        Require(
            Files.Select(file => file.Name).Distinct(StringComparer.Ordinal).Count() == Files.Count,
            "a file is listed twice"
        );
        Require(OptimizerShards >= 1 && OptimizerShards <= Files.Count, "it lists fewer files than optimizer shards");

        bool InSteps(long? count) => count is null || (count >= 0 && count <= Step);

        static void Require(bool holds, string otherwise)
        {
            if (!holds)
                throw new JsonException(otherwise);
        }
    }

    // The configuration is kept as it was read, unchecked: half a character, as in "\ud800", throws only where its
    // text is asked for.
    private static void ReadTexts(JsonElement value)
    {
        switch (value.ValueKind)
        {
            case JsonValueKind.Object:
                foreach (JsonProperty member in value.EnumerateObject())
                {
                    _ = member.Name;
                    ReadTexts(member.Value);
                }

                break;
            case JsonValueKind.Array:
                foreach (JsonElement item in value.EnumerateArray())
                    ReadTexts(item);
                break;
            case JsonValueKind.String:
                _ = value.GetString();
                break;
        }
    }

    // Nothing but a file of the checkpoint's own folder is ever opened.
    private static bool IsPlainName(string? name) =>
        name is { Length: > 0 and <= 255 }
        && name is not ("." or "..")
        && name.All(character => char.IsAsciiLetterOrDigit(character) || character is '-' or '_' or '.');
}
