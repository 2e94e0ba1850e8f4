using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using LongNet.Distributed.Backends.Mpi;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Launch;

namespace LongNet.Distributed.Lifetime;

/// <summary>
/// A thread that notices when a collective has taken too long, asks all ranks for their flight records, and ends the
/// job with a message that explains them. It answers other ranks while the program computes, waits or hangs.
/// </summary>
/// <remarks>
/// It has a communicator of its own. Where several ranks notice, one reports: the rank that asked first, and of ranks
/// that ask at the same time the lowest. The others then wait for it to end the job, and report only if it does not.
/// </remarks>
internal sealed partial class Watchdog : IDisposable
{
    /// <summary>
    /// How long the other ranks leave it to the reporting rank to end the job: longer than it needs to ask which rank
    /// is missing, to report and to abort.
    /// </summary>
    public static readonly TimeSpan ReportingRankTime = TimeSpan.FromSeconds(10);

    private const int QueryTag = 0,
        AnswerTag = 1,
        FailureTag = 2;

    // Finished collectives in an answer, beside those in flight.
    private const int AnsweredCollectives = 20;

    private const string Group = "watchdog";

    private static readonly TimeSpan Period = TimeSpan.FromMilliseconds(50),
        QuickPeriod = TimeSpan.FromMilliseconds(2);

    // The watchdog of a rank that is alive answers within its period, whatever the program does.
    private static readonly TimeSpan AnswerTime = TimeSpan.FromSeconds(3);

    private readonly MpiNative native;
    private readonly CollectiveMonitor monitor;
    private readonly RankEnvironment environment;
    private readonly Action onReported;
    private readonly Action<string, int?, int> end;
    private readonly nint communicator;
    private readonly int parent = ParentProcess();
    private readonly Lock sending = new();
    private readonly List<(nint Request, nint Buffer)> sent = [];
    private readonly Dictionary<int, FlightRecord> answers = [];

    // Buffers of messages whose rest has not come: MPI may still write into them.
    private readonly List<byte[]> unfinished = [];
    private readonly Thread thread;
    private readonly ManualResetEventSlim stopping = new();

    // While another rank investigates, this one does not; in ticks of Stopwatch.
    private long silentUntil;
    private bool otherRankReports;

    /// <summary>Collective, blocking.</summary>
    /// <param name="onReported">Called when another rank has reported why the job ends.</param>
    /// <param name="end">Ends the job: message, the failed rank where one is known, exit code. Does not return.</param>
    public Watchdog(
        MpiNative native,
        CollectiveMonitor monitor,
        RankEnvironment environment,
        Action onReported,
        Action<string, int?, int> end
    )
    {
        this.onReported = onReported;
        this.native = native;
        this.monitor = monitor;
        this.environment = environment;
        this.end = end;
        communicator = native.Duplicate(native.Abi.World, Group);
        thread = new Thread(Run) { IsBackground = true, Name = "longnet-watchdog" };
        thread.Start();
    }

    /// <summary>The watchdogs' communicator, which is free for one collective at the end of the program.</summary>
    public nint Communicator => communicator;

    /// <summary>Makes the other ranks write their flight records, because this one ends the job.</summary>
    /// <param name="failedRank">Rank that failed; null where it is not known.</param>
    public void ReportFailure(int? failedRank, string reason)
    {
        for (int rank = 0; rank < environment.Size; rank++)
        {
            if (rank != environment.Rank)
                Send(rank, FailureTag, $"{failedRank}\n{reason}");
        }
    }

    /// <summary>Stops the thread. The communicator stays until MPI ends: freeing it would be collective.</summary>
    public void Dispose()
    {
        stopping.Set();
        if (Thread.CurrentThread != thread)
            thread.Join();
    }

    private void Run()
    {
        try
        {
            while (!stopping.IsSet)
            {
                Serve();
                if (Stopwatch.GetTimestamp() >= Volatile.Read(ref silentUntil) && monitor.Overdue() is { } overdue)
                    Investigate(overdue);
                // Some launchers do not end the ranks when the process that started them is killed.
                if (ParentProcess() != parent)
                    end(
                        $"its parent process {parent} has gone, so nothing would end it later; ending the job.",
                        environment.Rank,
                        1
                    );
                stopping.Wait(Period);
            }
        }
        catch (InvalidOperationException error)
        {
            end($"it cannot reach the other ranks any more: {error.Message}", environment.Rank, 1);
        }
    }

    private void Serve()
    {
        while (native.Probe(communicator, Group) is var (source, tag, bytes))
        {
            if (Receive(source, tag, bytes) is not { } text)
                continue;
            switch (tag)
            {
                case QueryTag:
                    Answer(source, text);
                    break;
                case AnswerTag:
                    Keep(text);
                    break;
                case FailureTag:
                    onReported();
                    string[] parts = text.Split('\n', 2);
                    WriteRecord(parts[1], int.TryParse(parts[0], out int failed) ? failed : null);
                    break;
            }
        }

        FreeSent();
    }

    private void Answer(int source, string reason)
    {
        // The rank that asks first reports; of two that ask at the same time, the lower.
        bool isInvestigating = answers.Count > 0;
        if (!isInvestigating || source < environment.Rank)
        {
            otherRankReports = true;
            long time = (long)(ReportingRankTime.TotalSeconds * Stopwatch.Frequency);
            Volatile.Write(ref silentUntil, Stopwatch.GetTimestamp() + time);
        }

        Send(source, AnswerTag, OwnRecord(reason).ToJson(indented: false));
    }

    private void Investigate(CollectiveCall overdue)
    {
        otherRankReports = false;
        string limit = $"{monitor.Timeout.TotalSeconds:0.###} s";
        CollectAnswers($"{overdue} did not finish within {limit}.");
        FlightRecord[] records = [.. answers.Values];
        answers.Clear();
        // A collective that has ended meanwhile was only slow.
        bool isSlow = overdue.CompletedAt != 0 && monitor.Overdue() is null;
        if (isSlow || otherRankReports)
            return;
        string where = monitor.RecordFolder is { } folder
            ? $" The ranks' flight records are in {folder} (longnet flight-record)."
            : "";
        end(
            FlightRecordAnalysis.Explain(
                records,
                $" within {limit} (parallel.timeout_seconds)",
                $"did not answer within {AnswerTime.TotalSeconds:0} s, so its process is stopped or dead or "
                    + "its machine is out of reach"
            ) + where,
            null,
            ExitCode.CollectiveTimeout
        );
    }

    // Asks all ranks, and waits until all have answered or the time for answers is over.
    private void CollectAnswers(string reason)
    {
        answers.Clear();
        answers[environment.Rank] = OwnRecord("");
        for (int rank = 0; rank < environment.Size; rank++)
        {
            if (rank != environment.Rank)
                Send(rank, QueryTag, reason);
        }

        long start = Stopwatch.GetTimestamp();
        while (answers.Count < environment.Size && Stopwatch.GetElapsedTime(start) < AnswerTime)
        {
            Serve();
#pragma warning disable RS0030 // MPI signals nothing that could be waited for.
            Thread.Sleep(QuickPeriod);
#pragma warning restore RS0030
        }
    }

    private FlightRecord OwnRecord(string reason) =>
        FlightRecord.Of(monitor, environment, reason, null, AnsweredCollectives);

    private void Keep(string json)
    {
        try
        {
            FlightRecord record = FlightRecord.FromJson(json);
            answers.TryAdd(record.Rank, record);
        }
        catch (JsonException)
        {
            // An answer that cannot be read counts as none.
        }
    }

    private void WriteRecord(string reason, int? failedRank)
    {
        if (monitor.RecordFolder is { } folder)
            _ = FlightRecord.Of(monitor, environment, reason, failedRank).TryWrite(folder);
    }

    private unsafe void Send(int rank, int tag, string text)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        lock (sending)
        {
            nint buffer = (nint)NativeMemory.Alloc((nuint)Math.Max(1, bytes.Length));
            Marshal.Copy(bytes, 0, buffer, bytes.Length);
            sent.Add((native.StartSend(communicator, Group, buffer, bytes.Length, rank, tag), buffer));
        }
    }

    // A rank that is stopped receives nothing, and the buffer of its message stays.
    private unsafe void FreeSent()
    {
        lock (sending)
        {
            for (int i = sent.Count - 1; i >= 0; i--)
            {
                if (!native.Test(sent[i].Request, Group))
                    continue;
                NativeMemory.Free((void*)sent[i].Buffer);
                sent.RemoveAt(i);
            }
        }
    }

    // Null where the rest of a message does not come, because its sender was stopped or cut off.
    private string? Receive(int source, int tag, int bytes)
    {
        byte[] text = GC.AllocateUninitializedArray<byte>(Math.Max(1, bytes), pinned: true);
        nint request = native.StartReceive(
            communicator,
            Group,
            Marshal.UnsafeAddrOfPinnedArrayElement(text, 0),
            bytes,
            source,
            tag
        );
        for (long start = Stopwatch.GetTimestamp(); !native.Test(request, Group); )
        {
            if (Stopwatch.GetElapsedTime(start) > AnswerTime)
            {
                unfinished.Add(text);
                return null;
            }

#pragma warning disable RS0030 // MPI signals nothing that could be waited for.
            Thread.Sleep(QuickPeriod);
#pragma warning restore RS0030
        }

        return Encoding.UTF8.GetString(text, 0, bytes);
    }

    [LibraryImport("libc", EntryPoint = "getppid")]
    private static partial int ParentProcess();
}
