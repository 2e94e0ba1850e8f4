using System.Text.Json;
using System.Text.Json.Serialization;
using LongNet.Core;
using LongNet.Distributed.Launch;

namespace LongNet.Distributed.Diagnostics;

/// <summary>A group as flight records name it.</summary>
/// <param name="Name">E.g. "world".</param>
/// <param name="Members">World ranks, in group order.</param>
internal sealed record RecordedGroup(string Name, IReadOnlyList<int> Members);

/// <summary>A collective in a flight record. Times are UTC; null: not yet.</summary>
/// <param name="Group">Key of <see cref="FlightRecord.Groups"/>.</param>
/// <param name="Number">As <see cref="CollectiveCall.Number"/>.</param>
/// <param name="Kind">E.g. "all-reduce".</param>
/// <param name="Signature">As <see cref="CollectiveCall.Signature"/>.</param>
internal sealed record RecordedCollective(
    string Group,
    [property: JsonPropertyName("sequence")] long Number,
    string Kind,
    [property: JsonPropertyName("agreed")] string Signature,
    long Bytes,
    string CallSite,
    string Activity,
    DateTime Called,
    DateTime? Started,
    DateTime? Completed
)
{
    /// <summary>Whether it is a send or a receive, which one peer answers.</summary>
    internal bool IsMessage => Kind == CollectiveKind.Send.Term() || Kind == CollectiveKind.Receive.Term();
}

/// <summary>
/// The collectives of one rank when the job failed. Every rank writes its own record, as JSON, into one folder;
/// <see cref="FlightRecordAnalysis"/> reads them together.
/// </summary>
internal sealed record FlightRecord
{
    /// <summary>Name of the folder within a run directory.</summary>
    public const string FolderName = "flight-record";

    private static readonly JsonSerializerOptions Json = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        RespectNullableAnnotations = true,
        RespectRequiredConstructorParameters = true,
    };

    private static readonly JsonSerializerOptions Indented = new(Json) { WriteIndented = true };

    public required int Rank { get; init; }

    /// <summary>Ranks of the job.</summary>
    public required int Size { get; init; }

    public required string Host { get; init; }

    public required int ProcessId { get; init; }

    public required DateTime Written { get; init; }

    /// <summary>Why the record was written, e.g. an error's message.</summary>
    public required string Reason { get; init; }

    /// <summary>Rank that failed; null where it is not known.</summary>
    public int? FailedRank { get; init; }

    /// <summary>What the program was doing; empty where it did not set it.</summary>
    public required string Activity { get; init; }

    public required double ActivitySeconds { get; init; }

    public required IReadOnlyDictionary<string, RecordedGroup> Groups { get; init; }

    /// <summary>Oldest first.</summary>
    public required IReadOnlyList<RecordedCollective> Collectives { get; init; }

    public static string FileNameOf(int rank) => $"rank-{rank:D5}.json";

    /// <summary>Reads this process's state.</summary>
    /// <param name="last">How many finished collectives to include, beside those in flight and the last of every
    /// group.</param>
    public static FlightRecord Of(
        CollectiveMonitor monitor,
        RankEnvironment environment,
        string reason,
        int? failedRank,
        int last = CollectiveMonitor.Capacity
    )
    {
        ArgumentNullException.ThrowIfNull(monitor);
        ArgumentNullException.ThrowIfNull(environment);
        IReadOnlyList<CollectiveCall> recent = monitor.Recent();
        CollectiveCall[] kept =
        [
            .. recent.Where(
                (call, place) =>
                    place >= recent.Count - last
                    || call.CompletedAt == 0
                    || !recent.Skip(place + 1).Any(later => later.GroupId == call.GroupId)
            ),
        ];
        return new FlightRecord
        {
            Rank = environment.Rank,
            Size = environment.Size,
            Host = Environment.MachineName,
            ProcessId = Environment.ProcessId,
            Written = TimeProvider.System.GetUtcNow().UtcDateTime,
            Reason = reason,
            FailedRank = failedRank,
            Activity = monitor.Activity,
            ActivitySeconds = Math.Round(monitor.ActivityTime.TotalSeconds, 3),
            Groups = kept.DistinctBy(call => call.GroupId)
                .ToDictionary(call => call.GroupId, call => new RecordedGroup(call.GroupName, call.Members)),
            Collectives =
            [
                .. kept.Select(call => new RecordedCollective(
                    call.GroupId,
                    call.Number,
                    call.Kind.Term(),
                    call.Signature,
                    call.Bytes,
                    call.CallSite,
                    call.Activity,
                    monitor.TimeOf(call.EnqueuedAt)!.Value,
                    monitor.TimeOf(call.StartedAt),
                    monitor.TimeOf(call.CompletedAt)
                )),
            ],
        };
    }

    public string ToJson(bool indented = true) => JsonSerializer.Serialize(this, indented ? Indented : Json);

    /// <exception cref="JsonException">It is no flight record.</exception>
    public static FlightRecord FromJson(string json) =>
        JsonSerializer.Deserialize<FlightRecord>(json, Json) ?? throw new JsonException("It is null.");

    /// <summary>Writes the record into a folder, which is made; replaces an earlier record of this rank.</summary>
    /// <returns>Whether it was written: a disk's error must not hide the failure that the record describes.</returns>
    public bool TryWrite(string folder)
    {
        try
        {
            Directory.CreateDirectory(folder);
            // The watchdog and the thread that fails may write at the same time: each has a file of its own until it is
            // complete.
            string path = Path.Combine(folder, FileNameOf(Rank)),
                partial = $"{path}.{Environment.ProcessId}-{Environment.CurrentManagedThreadId}.partial";
            File.WriteAllText(partial, ToJson());
            File.Move(partial, path, overwrite: true);
            return true;
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>Reads all records of a folder, in rank order.</summary>
    /// <param name="folder">A run directory, or its folder of records.</param>
    /// <exception cref="UserException">There are none, or one is damaged.</exception>
    public static IReadOnlyList<FlightRecord> ReadAll(string folder)
    {
        string inner = Path.Combine(folder, FolderName);
        string from = Directory.Exists(inner) ? inner : folder;
        string[] files = Directory.Exists(from) ? Directory.GetFiles(from, "rank-*.json") : [];
        if (files.Length == 0)
        {
            throw new UserException(
                $"{folder} has no flight records: name a run directory such as runs/NAME whose job ended in "
                    + $"an error, or its folder {FolderName}."
            );
        }

        return [.. files.Select(Read).OrderBy(record => record.Rank)];

        static FlightRecord Read(string path)
        {
            try
            {
                return FromJson(File.ReadAllText(path));
            }
            catch (Exception error) when (error is JsonException or IOException or UnauthorizedAccessException)
            {
                throw new UserException(
                    $"{path} is no flight record ({error.Message.Split('\n')[0]}): remove the file to read the others."
                );
            }
        }
    }
}
