using System.Globalization;
using System.Text.Json;
using LongNet.Core.Native;

namespace LongNet.Trainer.Runs;

/// <summary>
/// The content of a run's lock file: which process of which machine wrote it, since when, and how often.
/// </summary>
/// <param name="Host">The machine's name.</param>
/// <param name="Process">The process.</param>
/// <param name="ProcessStart">When it started, in ticks since the machine did: another process gets the same number
/// some day, but not the same start.</param>
/// <param name="ProcessNamespace">Where the process's number holds: containers of one machine each have their own
/// numbers.</param>
/// <param name="BootId">Of the machine's start.</param>
/// <param name="Started">When the lock was taken, by that machine's clock.</param>
/// <param name="Token">Of this lock only.</param>
/// <param name="Heartbeat">Raised while the lock is kept.</param>
internal sealed record RunLockHolder(
    string Host,
    int Process,
    long ProcessStart,
    string ProcessNamespace,
    string BootId,
    DateTime Started,
    Guid Token,
    long Heartbeat
)
{
    // More than the longest names, numbers and times come to.
    private const int TextBytes = 1024;

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        WriteIndented = true,
        RespectNullableAnnotations = true,
        RespectRequiredConstructorParameters = true,
    };

    // Empty where the system does not say.
    private static string OwnNamespace => ProcFile.LinkTarget("/proc/self/ns/pid") ?? "";

    private static string OwnBootId => ProcFile.Text("/proc/sys/kernel/random/boot_id")?.Trim() ?? "";

    /// <param name="time">Says when the lock was taken.</param>
    public static RunLockHolder OfThisProcess(TimeProvider time) =>
        new(
            Environment.MachineName,
            Environment.ProcessId,
            StartOf(Environment.ProcessId) ?? 0,
            OwnNamespace,
            OwnBootId,
            time.GetUtcNow().UtcDateTime,
            Guid.NewGuid(),
            0
        );

    /// <summary>
    /// Whether the process has ended for certain. Where it has not, or is another machine's or container's, only its
    /// heartbeat shows it.
    /// </summary>
    public bool HasEnded() =>
        BootId.Length > 0
        && ProcessNamespace.Length > 0
        && (Host, BootId, ProcessNamespace) == (Environment.MachineName, OwnBootId, OwnNamespace)
        && StartOf(Process) != ProcessStart;

    /// <summary>Reads what a lock says; null where it is empty, half written or something else.</summary>
    public static RunLockHolder? Parse(ReadOnlySpan<byte> text)
    {
        try
        {
            return JsonSerializer.Deserialize<RunLockHolder>(text, Json);
        }
        catch (JsonException)
        {
            return null;
        }
    }

    /// <summary>
    /// What a lock says, equally long for all holders: where several write at once, each writes over all of what the
    /// others have written, and nobody's setting of the file's size changes another's text.
    /// </summary>
    public byte[] ToText()
    {
        byte[] json = JsonSerializer.SerializeToUtf8Bytes(this, Json);
        var text = new byte[Math.Max(TextBytes, json.Length + 1)];
        text.AsSpan().Fill((byte)' ');
        json.CopyTo(text, 0);
        text[^1] = (byte)'\n';
        return text;
    }

    public override string ToString() => $"process {Process} on {Host}";

    // Null where there is no such process, or it has ended and its parent has not asked for its exit code.
    private static long? StartOf(int process)
    {
        string? status = ProcFile.Text($"/proc/{process}/stat");
        // After the name in parentheses, which may hold anything: the state is field 3, the start field 22.
        string[] fields = status?[(status.LastIndexOf(')') + 1)..].Split(' ', StringSplitOptions.RemoveEmptyEntries)
            ?? [];
        return
            fields.Length > 19
            && fields[0] is not ("Z" or "X")
            && long.TryParse(fields[19], NumberStyles.None, CultureInfo.InvariantCulture, out long start)
            ? start
            : null;
    }
}
