using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Launch;
using LongNet.Distributed.Lifetime;

namespace LongNet.Distributed.Backends.Mpi;

/// <summary>
/// A thread that sees when a collective has taken too long, asks all ranks where they are, and ends the job with what
/// they answered. It answers others while the program computes, waits or hangs.
/// </summary>
/// <remarks>
/// It has a communicator of its own. Of several ranks that ask, the one that asked first speaks, or of equals the
/// lowest; the others wait for the end that it brings, and speak only if it does not come.
/// </remarks>
internal sealed partial class MpiWatchdog : IDisposable
{
    private const int QueryTag = 0,
        AnswerTag = 1,
        FailureTag = 2;

    // Collectives that an answer tells of, beside those under way.
    private const int AnsweredCollectives = 20;

    private const string Group = "watchdog";

    private static readonly TimeSpan Period = TimeSpan.FromMilliseconds(50),
        QuickPeriod = TimeSpan.FromMilliseconds(2);

    // A rank that is alive answers within its period, wherever its program is.
    private static readonly TimeSpan AnswerTime = TimeSpan.FromSeconds(3);

    private readonly MpiNative native;
    private readonly CollectiveMonitor monitor;
    private readonly RankEnvironment environment;
    private readonly Action told;
    private readonly Action<string, int?, int> end;
    private readonly nint communicator;
    private readonly int parent = ParentProcess();
    private readonly Lock sending = new();
    private readonly List<(nint Request, nint Buffer)> sent = [];
    private readonly Dictionary<int, FlightRecord> answers = [];

    // MPI may still write into them.
    private readonly List<byte[]> unfinished = [];
    private readonly Thread thread;
    private readonly ManualResetEventSlim stopping = new();
    private long quietUntil;
    private bool defers;

    /// <summary>Collective, blocking.</summary>
    /// <param name="told">Called when another rank has told why the job ends.</param>
    /// <param name="end">Ends the job: message, the failed rank where one is known, exit code. Does not return.</param>
    public MpiWatchdog(
        MpiNative native,
        CollectiveMonitor monitor,
        RankEnvironment environment,
        Action told,
        Action<string, int?, int> end
    )
    {
        this.told = told;
        this.native = native;
        this.monitor = monitor;
        this.environment = environment;
        this.end = end;
        communicator = native.Duplicate(native.Abi.World, Group);
        thread = new Thread(Run) { IsBackground = true, Name = "longnet-watchdog" };
        thread.Start();
    }

    /// <summary>A communicator on which nothing else communicates collectively.</summary>
    public nint Communicator => communicator;

    /// <summary>Makes the other ranks write their flight records, because this one ends the job.</summary>
    /// <param name="failedRank">Whose failure it is; null where that is not known.</param>
    public void TellOthers(int? failedRank, string reason)
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
                if (Stopwatch.GetTimestamp() >= Volatile.Read(ref quietUntil) && monitor.Overdue() is { } overdue)
                    Investigate(overdue);
                // Some launchers leave the ranks behind when what started them is killed.
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
                    // Whoever asks first speaks; of two that ask at once, the lower.
                    if (answers.Count == 0 || source < environment.Rank)
                    {
                        defers = true;
                        Volatile.Write(
                            ref quietUntil,
                            Stopwatch.GetTimestamp()
                                + (long)(CollectiveException.SpeakerTime.TotalSeconds * Stopwatch.Frequency)
                        );
                    }

                    Send(
                        source,
                        AnswerTag,
                        FlightRecord.Of(monitor, environment, text, null, AnsweredCollectives).ToJson(indented: false)
                    );
                    break;
                case AnswerTag:
                    Keep(text);
                    break;
                case FailureTag:
                    told();
                    string[] parts = text.Split('\n', 2);
                    Write(parts[1], int.TryParse(parts[0], out int failed) ? failed : null);
                    break;
            }
        }

        FreeSent();
    }

    private void Investigate(CollectiveCall overdue)
    {
        defers = false;
        answers.Clear();
        answers[environment.Rank] = FlightRecord.Of(monitor, environment, "", null, AnsweredCollectives);
        string limit = $"{monitor.Timeout.TotalSeconds:0.###} s";
        string reason = $"{overdue} did not finish within {limit}.";
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

        // A collective that has ended meanwhile was only slow.
        if (overdue.CompletedAt != 0 && monitor.Overdue() is null)
        {
            answers.Clear();
            return;
        }

        if (defers)
        {
            answers.Clear();
            return;
        }

        string records = monitor.RecordFolder is { } folder
            ? $" The ranks' flight records are in {folder} (longnet flight-record)."
            : "";
        end(
            FlightRecordAnalysis.Explain(
                [.. answers.Values],
                $" within {limit} (parallel.timeout_seconds)",
                $"did not answer within {AnswerTime.TotalSeconds:0} s, so its process is stopped or dead or "
                    + "its machine is out of reach"
            ) + records,
            null,
            DistributedRuntime.TimedOut
        );
    }

    private void Keep(string json)
    {
        try
        {
            FlightRecord record = FlightRecord.FromJson(json);
            answers.TryAdd(record.Rank, record);
        }
        catch (JsonException)
        {
            // Counts as no answer.
        }
    }

    private void Write(string reason, int? failedRank)
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

    // A rank that is stopped takes nothing, and its buffer stays.
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

    // Null where the rest of a message does not come: its sender was stopped or cut off in between.
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
