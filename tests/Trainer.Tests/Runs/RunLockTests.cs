using System.Diagnostics;
using System.Globalization;
using System.Text;
using LongNet.Core;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Runs;
using LongNet.Trainer.Storage;
using LongNet.Trainer.Tests.Ranks;

namespace LongNet.Trainer.Tests.Runs;

public sealed class RunLockTests : IDisposable
{
    // What a file system answers that has no locks.
    private const int NotSupported = 95;

    private static readonly TimeSpan Beat = RunLockOptions.Default.Beat;

    // A run's start on a busy machine.
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(2);

    private readonly TemporaryFolder folder = new();
    private readonly LockClock clock = new();

    private string Run => folder["run"];

    private string LockPath => folder["run/.lock"];

    public void Dispose() => folder.Dispose();

    [Fact]
    public void Acquire_ByTwoRuns_RefusesTheSecondUntilTheFirstEnds()
    {
        using (RunLock first = Acquire())
        {
            Assert.Null(first.StaleHolder);
            RunLockHolder holder = RunLockHolder.Parse(LockFile.Read(LockPath))!;
            Assert.Equal(
                (Environment.MachineName, Environment.ProcessId, 0L),
                (holder.Host, holder.Process, holder.Heartbeat)
            );
            Assert.Equal(clock.GetUtcNow().UtcDateTime, holder.Started);
            Assert.Equal(
                InUseBy($"process {Environment.ProcessId} on {Environment.MachineName} (since {Since(holder)})"),
                Refusal()
            );
        }

        using RunLock second = Acquire();
        Assert.Null(second.StaleHolder);
    }

    [Fact]
    public void Acquire_Text_IsReadableByPeople()
    {
        using RunLock held = new RunDirectory(Run).AcquireLock();
        // cat asks for no lock.
        ProgramResult read = ProgramRun.ToEnd(Limit, "cat", [LockPath]).AssertSuccess();
        Assert.Matches(
            $$"""
            ^\{
              "host": "{{Environment.MachineName}}",
              "process": {{Environment.ProcessId}},
              "process_start": \d+,
              "process_namespace": "pid:\[\d+\]",
              "boot_id": "[0-9a-f-]{36}",
              "started": "[0-9T:.-]+Z",
              "token": "[0-9a-f-]{36}",
              "heartbeat": 0
            \} *
            $
            """,
            read.Output
        );
        string[] status = File.ReadAllText("/proc/self/stat").Split(") ")[^1].Split(' ');
        Assert.Contains($"\"process_start\": {status[19]},", read.Output, StringComparison.Ordinal);
    }

    [Fact]
    public void Dispose_FoldersMadeForTheLock_AreRemovedWhereTheyAreEmpty()
    {
        var run = new RunDirectory(folder["runs/deep/x"]);
        run.AcquireLock().Dispose();
        Assert.Empty(Directory.GetFileSystemEntries(folder.Path));

        using (run.AcquireLock())
            folder.Write("runs/deep/config.yaml", "seed: 1\n");
        Assert.Equal([folder["runs/deep/config.yaml"]], Directory.GetFileSystemEntries(folder["runs/deep"]));

        // One that was there is the user's.
        Directory.CreateDirectory(Run);
        new RunDirectory(Run).AcquireLock().Dispose();
        Assert.Empty(Directory.GetFileSystemEntries(Run));
    }

    [Fact]
    public void Acquire_WhereTheFolderCannotBeWritten_SaysWhy()
    {
        string inTheWay = folder.Write("file", "");
        Assert.StartsWith(
            $"The run directory {inTheWay} cannot be written: ",
            Assert.Throws<UserException>(() => new RunDirectory(inTheWay).AcquireLock()).Message,
            StringComparison.Ordinal
        );

        Directory.CreateDirectory(LockPath);
        Assert.Equal(
            $"The run directory {Run} cannot be written: {LockPath}: Is a directory. Choose another with --output.",
            Assert.Throws<UserException>(() => new RunDirectory(Run).AcquireLock()).Message
        );

        Directory.Delete(LockPath);
        File.CreateSymbolicLink(LockPath, folder["nowhere/.lock"]);
        Assert.Equal(
            $"The run directory {Run} cannot be written: {LockPath}: whenever it is opened, it is gone. "
                + "Choose another with --output.",
            Assert.Throws<UserException>(() => new RunDirectory(Run).AcquireLock()).Message
        );
    }

    [Fact]
    public void Lock_WhereAProcessStartedMeanwhileLivesOn_EndsWithItsOwner()
    {
        folder.Write("run/.lock", "");
        ProgramRun child;
        using (LockFile file = LockFile.Open(LockPath)!)
        {
            Assert.Equal(0, file.Lock());
            child = new ProgramRun("sleep", ["60"]);
        }

        using (child)
        using (LockFile again = LockFile.Open(LockPath)!)
        {
            Assert.Equal(0, again.Lock());
            Assert.False(child.HasExited);
        }
    }

    [Theory]
    [InlineData("")]
    [InlineData("{\n  \"host\": \"no")]
    [InlineData("\0\0\0\0")]
    [InlineData("null")]
    [InlineData("[1]")]
    [InlineData(
        "{\"host\":null,\"process\":1,\"process_start\":1,\"process_namespace\":\"\",\"boot_id\":\"\","
            + "\"started\":\"2026-01-02T03:04:05Z\",\"token\":\"00000000-0000-0000-0000-000000000000\",\"heartbeat\":1}"
    )]
    public void Acquire_TextThatSaysNothing_IsTolerated(string text)
    {
        folder.Write("run/.lock", text);
        using (LockFile other = LockFile.Open(LockPath)!)
        {
            Assert.Equal(0, other.Lock());
            Assert.Equal(InUseBy("another run, which its .lock does not name"), Refusal());
        }

        using RunLock held = Acquire();
        Assert.Equal("a run that it does not name", held.StaleHolder);
        Assert.Equal(Environment.ProcessId, RunLockHolder.Parse(LockFile.Read(LockPath))!.Process);
    }

    [Theory]
    [InlineData(1L << 20)]
    [InlineData(4000L)]
    public void Acquire_LongerTextThanItsOwn_LeavesNothingOfIt(long length)
    {
        folder.Write("run/.lock", new string('x', (int)length));
        using RunLock held = Acquire();
        Assert.NotNull(RunLockHolder.Parse(LockFile.Read(LockPath)));
    }

    // As the number has been given to another process since: to this one.
    [Fact]
    public void Acquire_LockOfAProcessThatIsGone_IsTakenOverAtOnce()
    {
        RunLockHolder gone = RunLockHolder.OfThisProcess(TimeProvider.System);
        Leave(gone with { ProcessStart = gone.ProcessStart - 1 });
        using RunLock held = Acquire();
        Assert.Equal(
            $"process {Environment.ProcessId} on {Environment.MachineName}, which ended without removing it",
            held.StaleHolder
        );
        Assert.Equal(TimeSpan.Zero, clock.Waited);
    }

    [Fact]
    public void HasEnded_OfProcesses_KnowsTheDeadAndTheUnburied()
    {
        RunLockHolder self = RunLockHolder.OfThisProcess(TimeProvider.System);
        Assert.False(self.HasEnded());
        // The shell's child ends when the shell has become a program that does not ask for its exit code.
        var start = new ProcessStartInfo("sh", ["-c", "exec 3<&0; { read -r line <&3; } & echo $!; exec sleep 60"])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        };
        using Process parent = Process.Start(start)!;
        try
        {
            int child = int.Parse(parent.StandardOutput.ReadLine()!, CultureInfo.InvariantCulture);
            Assert.True(SpinWait.SpinUntil(() => File.ReadAllText($"/proc/{parent.Id}/comm") == "sleep\n", Limit));
            parent.StandardInput.WriteLine();
            parent.StandardInput.Flush();
            string Status() => File.ReadAllText($"/proc/{child}/stat").Split(") ")[^1];
            Assert.True(SpinWait.SpinUntil(() => Status().StartsWith('Z'), Limit));
            Assert.True(
                (
                    self with
                    {
                        Process = child,
                        ProcessStart = long.Parse(Status().Split(' ')[19], CultureInfo.InvariantCulture),
                    }
                ).HasEnded()
            );
        }
        finally
        {
            parent.Kill();
            parent.WaitForExit();
        }

        Assert.True((self with { Process = parent.Id }).HasEnded());
        // Nothing is known of other machines, of this one before it started anew, and of other containers.
        Assert.False((self with { Process = parent.Id, Host = "node2" }).HasEnded());
        Assert.False((self with { Process = parent.Id, BootId = "another" }).HasEnded());
        Assert.False((self with { Process = parent.Id, ProcessNamespace = "pid:[1]" }).HasEnded());
    }

    [Theory]
    [InlineData("another host")]
    [InlineData("another start of the machine")]
    [InlineData("another container")]
    [InlineData("a process that is there")]
    public void Acquire_HeartbeatThatStandsStill_IsTakenOverAfterThreeBeats(string whose)
    {
        RunLockHolder gone = RunLockHolder.OfThisProcess(TimeProvider.System) with { Process = 4711, Heartbeat = 17 };
        Leave(
            whose switch
            {
                "another host" => gone with { Host = "node2" },
                "another start of the machine" => gone with { BootId = "another" },
                "another container" => gone with { ProcessNamespace = "pid:[1]" },
                _ => gone with { Process = Environment.ProcessId },
            }
        );
        using RunLock held = Acquire();
        Assert.Equal(3 * Beat, clock.Waited);
        (int process, string host) = whose switch
        {
            "another host" => (4711, "node2"),
            "a process that is there" => (Environment.ProcessId, Environment.MachineName),
            _ => (4711, Environment.MachineName),
        };
        Assert.Equal($"process {process} on {host}, which ended without removing it", held.StaleHolder);
    }

    // The file system does not carry the lock between machines, so the other's is not seen here: it writes without one.
    [Fact]
    public void Acquire_HeartbeatOfAnotherHostThatMoves_IsRefused()
    {
        RunLockHolder other = OfAnotherHost();
        Leave(other);
        DateTimeOffset start = clock.GetUtcNow();
        // It beats just before this process would have waited long enough.
        clock.WhileWaiting = () =>
        {
            if (clock.GetUtcNow() - start == Beat)
                TakeOver(other with { Heartbeat = other.Heartbeat + 1 });
        };
        Assert.Equal(InUseBy("process 4711 on node2 (since 2026-01-02 03:04:05 UTC)"), Refusal());
        Assert.Equal(1.5 * Beat, clock.Waited);
        Assert.Equal(other.Token, RunLockHolder.Parse(LockFile.Read(LockPath))!.Token);
    }

    // Its first beats were late: the text is another's by then, and the next beat shows it.
    [Fact]
    public void Acquire_HolderThatBeatsLate_GetsItsLockBack()
    {
        RunLockHolder other = OfAnotherHost();
        Leave(other);
        clock.WhileWaiting = () =>
        {
            if (RunLockHolder.Parse(LockFile.Read(LockPath))!.Token != other.Token)
                TakeOver(other with { Heartbeat = 1 });
        };
        Assert.Equal(InUseBy("process 4711 on node2 (since 2026-01-02 03:04:05 UTC)"), Refusal());
        Assert.Equal(2 * Beat, clock.Waited);
        Assert.Equal(1, RunLockHolder.Parse(LockFile.Read(LockPath))!.Heartbeat);
    }

    [Fact]
    public void Heartbeat_WhileHeld_Rises()
    {
        using RunLock held = Acquire();
        for (int beat = 1; beat <= 3; beat++)
        {
            clock.PassBeat(Beat);
            Assert.Equal(beat, RunLockHolder.Parse(LockFile.Read(LockPath))!.Heartbeat);
        }

        held.Dispose();
        Assert.False(File.Exists(LockPath));
    }

    // A process that was suspended, or whose disk was out of reach, where no lock of the system keeps the other out.
    [Fact]
    public void Heartbeat_OfAHolderThatWasTakenOver_Stops()
    {
        RunLockHolder other = OfAnotherHost() with { Heartbeat = 1 };
        using (RunLock held = Acquire())
        {
            Assert.Null(held.TakenOverBy);
            TakeOver(other);
            clock.AwaitSleeper();
            clock.Advance(Beat);
            Assert.True(SpinWait.SpinUntil(() => held.TakenOverBy is not null, Limit));
            Assert.Equal("process 4711 on node2", held.TakenOverBy);
            clock.Advance(2 * Beat);
        }

        Assert.Equal(other, RunLockHolder.Parse(LockFile.Read(LockPath)));
    }

    [Fact]
    public void Heartbeat_WhereTheFolderIsGone_DisturbsNothing()
    {
        using RunLock held = Acquire();
        Directory.Delete(Run, recursive: true);
        // Another run of the same name, whose lock is not for the first to remove.
        var clockOfNext = new LockClock();
        using RunLock next = Acquire(own: clockOfNext);
        clock.PassBeat(Beat);
        clockOfNext.PassBeat(Beat);
        clock.Advance(Beat);
        Assert.True(SpinWait.SpinUntil(() => held.TakenOverBy is not null, Limit));
        held.Dispose();
        Assert.True(File.Exists(LockPath));
        next.Dispose();
        Assert.False(File.Exists(LockPath));
    }

    [Fact]
    public void Acquire_FileSystemWithoutLocks_GoesByTheHeartbeat()
    {
        var clockOfFirst = new LockClock();
        using (RunLock first = Acquire(WithoutLocks, clockOfFirst))
        {
            clock.WhileWaiting = () => clockOfFirst.PassBeat(Beat);
            RunLockHolder holder = RunLockHolder.Parse(LockFile.Read(LockPath))!;
            Assert.Equal(
                InUseBy($"process {Environment.ProcessId} on {Environment.MachineName} (since {Since(holder)})"),
                Refusal(WithoutLocks)
            );
        }

        Assert.False(Directory.Exists(Run));
        clock.WhileWaiting = null;
        RunLockHolder gone = RunLockHolder.OfThisProcess(TimeProvider.System);
        Leave(gone with { ProcessStart = gone.ProcessStart - 1 });
        using RunLock second = Acquire(WithoutLocks);
        Assert.Equal(
            $"process {Environment.ProcessId} on {Environment.MachineName}, which ended without removing it",
            second.StaleHolder
        );
    }

    [Fact]
    public void Acquire_FileSystemThatFails_IsNotTakenForOneWithoutLocks() =>
        Assert.Equal(
            $"The run directory {Run} cannot be written: {LockPath}: Input/output error. Choose another with --output.",
            Refusal(_ => 5)
        );

    // Two would hold two files of the same name.
    [Fact]
    public void Acquire_FileReplacedBeforeItIsLocked_HoldsTheOneThatIsThere()
    {
        RunLockHolder gone = RunLockHolder.OfThisProcess(TimeProvider.System);
        gone = gone with { ProcessStart = gone.ProcessStart - 1 };
        Leave(gone);
        int times = 0;
        using RunLock held = Acquire(opened =>
        {
            if (times++ == 0)
            {
                File.Delete(LockPath);
                Leave(gone);
            }

            return opened.Lock();
        });
        Assert.Equal(2, times);
        RunLockHolder holder = RunLockHolder.Parse(LockFile.Read(LockPath))!;
        Assert.Equal(
            InUseBy($"process {Environment.ProcessId} on {Environment.MachineName} (since {Since(holder)})"),
            Refusal()
        );
    }

    [Fact]
    public void Acquire_TakenAndReleasedByMany_IsNeverHeldByTwo()
    {
        int holders = 0,
            most = 0,
            times = 0;
        Together(4, _ =>
        {
            var own = new LockClock();
            for (int turn = 0; turn < 300; turn++)
            {
                RunLock held;
                try
                {
                    held = Acquire(own: own);
                }
                catch (UserException)
                {
                    continue;
                }

                int now = Interlocked.Increment(ref holders);
                lock (folder)
                    (most, times) = (Math.Max(most, now), times + 1);
                Thread.SpinWait(1000);
                Interlocked.Decrement(ref holders);
                held.Dispose();
            }
        });
        Assert.Equal(1, most);
        Assert.True(times > 4, $"the lock was taken {times} times");
    }

    [Fact]
    public void Acquire_StaleLockFoundByManyThreads_IsTakenByOne()
    {
        RunLockHolder gone = RunLockHolder.OfThisProcess(TimeProvider.System);
        for (int round = 0; round < 50; round++)
        {
            Leave(gone with { ProcessStart = gone.ProcessStart - 1 });
            Assert.Equal(1, Winners(8, file => file.Lock(), inStep: false));
        }
    }

    // A longer text than another's, written just before it, would otherwise end in the other's text when its size is
    // set.
    [Fact]
    public void Text_OfAnyHolder_IsEquallyLong()
    {
        RunLockHolder holder = RunLockHolder.OfThisProcess(TimeProvider.System);
        var second = new DateTime(2030, 1, 1, 0, 0, 0, DateTimeKind.Utc);
        RunLockHolder[] holders =
        [
            holder with
            {
                Started = second,
            },
            holder with
            {
                Started = second.AddTicks(1),
                Process = int.MaxValue,
                ProcessStart = long.MaxValue,
                Heartbeat = long.MaxValue,
            },
            holder with
            {
                Host = new string('n', 64),
            },
        ];
        Assert.Single(holders.Select(each => each.ToText().Length).Distinct());
        Assert.All(holders, each => Assert.Equal(each, RunLockHolder.Parse(each.ToText())));
    }

    [Fact]
    public void Acquire_StaleLockFoundByManyWithoutLocks_IsTakenByOne()
    {
        for (int round = 0; round < 3; round++)
        {
            Leave(OfAnotherHost());
            Assert.Equal(1, Winners(4, WithoutLocks, inStep: true));
        }
    }

    [Theory]
    [InlineData(MpiKind.OpenMpi)]
    [InlineData(MpiKind.Mpich)]
    public void Acquire_StaleLockFoundByManyProcesses_IsTakenByOne(MpiKind kind)
    {
        RunLockHolder gone = RunLockHolder.OfThisProcess(TimeProvider.System) with { Process = 4711 };
        string stale = folder.Write("stale", Encoding.UTF8.GetString((gone with { ProcessStart = -1 }).ToText()));
        Directory.CreateDirectory(Run);
        RankTests.RunScenario(kind, 4, "run-lock", Run, stale);
    }

    [Fact]
    public void Train_BesideARunInTheSameDirectory_IsRefused()
    {
        using ProgramRun first = Start();
        RunLockHolder holder = WaitForSteps(first);
        string message =
            $"longnet: {InUseBy($"process {holder.Process} on {Environment.MachineName} (since {Since(holder)})")}\n";

        ProgramResult second = TrainToEnd();
        Assert.Equal(message, second.Error);
        Assert.Equal(2, second.ExitCode);

        if (MpiLauncher.Find(MpiKind.OpenMpi) is { } launcher)
        {
            ProgramResult onTwoRanks = launcher.Run(2, Repository.LongNet, Arguments("--resume", "auto"));
            Assert.Single(onTwoRanks.Error.Split('\n'), line => line + "\n" == message);
            Assert.Equal(2, onTwoRanks.ExitCode);
        }

        Assert.False(first.HasExited);
    }

    [Fact]
    public void Train_AfterARunThatWasKilled_TakesItsLockOverAndGoesOn()
    {
        RunLockHolder holder;
        using (ProgramRun killed = Start())
        {
            holder = WaitForSteps(killed);
            killed.Kill();
        }

        Assert.True(File.Exists(LockPath));
        ProgramResult next = TrainToEnd("--set", "training.steps=2").AssertSuccess();
        Assert.StartsWith(
            $"note: the lock of {Run} was left by process {holder.Process} on {Environment.MachineName}, "
                + "which ended without removing it.\n",
            next.Output,
            StringComparison.Ordinal
        );
        Assert.Equal([1, 2], TrainingJob.Metrics(Run, "loss").Select(line => line.GetProperty("step").GetInt64()));
        Assert.False(File.Exists(LockPath));
    }

    [Theory]
    [InlineData(MpiKind.None, 1)]
    [InlineData(MpiKind.OpenMpi, 2)]
    public void Train_WhoseDirectoryIsTakenOver_EndsWithoutSaving(MpiKind kind, int ranks)
    {
        using ProgramRun run = RankTests.Launcher(kind).Start(ranks, Repository.LongNet, Endless());
        WaitForSteps(run);
        RunLockHolder other = OfAnotherHost() with { Heartbeat = 1 };
        TakeOver(other);
        ProgramResult result = run.Wait(Limit);
        Assert.Single(
            result.Error.Split('\n'),
            $"longnet: The run directory {Run} was taken over by process 4711 on node2, because this run "
                + "stood still for some time (suspended, or its disk out of "
                + "reach) and looked dead: the other run goes on from the last checkpoint, and this one ends "
                + "without saving."
        );
        Assert.Equal(2, result.ExitCode);
        Assert.Equal(other, RunLockHolder.Parse(LockFile.Read(LockPath)));
        Assert.Empty(new RunDirectory(Run).Checkpoints().Steps());
    }

    /// <summary>A save is always on its way: what the other run finds is what stays.</summary>
    [Fact]
    public void Train_WhoseDirectoryIsTakenOverWhileItSaves_LeavesTheCheckpoints()
    {
        using var run = new ProgramRun(Repository.LongNet, [.. Endless(), "--set", "checkpoint.every_steps=1"]);
        CheckpointStore store = new RunDirectory(Run).Checkpoints();
        Assert.True(SpinWait.SpinUntil(() => run.HasExited || store.Steps().Count > 2, Limit));
        TakeOver(OfAnotherHost() with { Heartbeat = 1 });
        // What had looked at the lock just before.
        Thread.Sleep(500);
        IReadOnlyList<long> found = store.Steps();
        Assert.Equal(2, run.Wait(Limit).ExitCode);
        Assert.Equal(found, store.Steps());
    }

    private static int WithoutLocks(LockFile file) => NotSupported;

    private static RunLockHolder OfAnotherHost() =>
        RunLockHolder.OfThisProcess(TimeProvider.System) with
        {
            Host = "node2",
            Process = 4711,
            Started = new DateTime(2026, 1, 2, 3, 4, 5, DateTimeKind.Utc),
        };

    private static string Since(RunLockHolder holder) => holder.Started.ToString("yyyy-MM-dd HH:mm:ss 'UTC'");

    private static void Together(int count, Action<int> action)
    {
        using var start = new Barrier(count);
        Exception?[] errors = new Exception?[count];
        Thread[] threads =
        [
            .. Enumerable
                .Range(0, count)
                .Select(index => new Thread(() =>
                {
                    start.SignalAndWait();
                    errors[index] = Record.Exception(() => action(index));
                })),
        ];
        foreach (Thread thread in threads)
            thread.Start();
        foreach (Thread thread in threads)
            thread.Join();
        Assert.All(errors, Assert.Null);
    }

    private string InUseBy(string whom) =>
        $"The run directory {Run} is in use by {whom}: wait for it to end, stop it, or choose another --output.";

    private RunLock Acquire(Func<LockFile, int>? locks = null, LockClock? own = null) =>
        RunLock.Acquire(Run, new RunLockOptions { Time = own ?? clock, Lock = locks ?? RunLockOptions.Default.Lock });

    private string Refusal(Func<LockFile, int>? locks = null) =>
        Assert.Throws<UserException>(() => Acquire(locks).Dispose()).Message;

    private void Leave(RunLockHolder holder) => folder.Write("run/.lock", Encoding.UTF8.GetString(holder.ToText()));

    // As the file is held, .NET's own streams refuse it.
    private void TakeOver(RunLockHolder other)
    {
        using LockFile file = LockFile.Open(LockPath)!;
        file.Write(other.ToText());
    }

    // All keep theirs until all have tried, so that none finds it released. In step, time passes only while all wait.
    private int Winners(int count, Func<LockFile, int> locks, bool inStep)
    {
        var held = new RunLock?[count];
        using var step = new Barrier(count);
        Together(count, index =>
        {
            try
            {
                var own = new LockClock { WhileWaiting = inStep ? step.SignalAndWait : null };
                held[index] = Acquire(locks, own);
            }
            catch (UserException refusal)
            {
                Assert.StartsWith($"The run directory {Run} is in use by ", refusal.Message, StringComparison.Ordinal);
            }
            finally
            {
                step.RemoveParticipant();
            }
        });
        foreach (RunLock? each in held)
            each?.Dispose();
        return held.Count(each => each is not null);
    }

    private string[] Arguments(params string[] more) =>
        [.. TrainingJob.Arguments(Repository.PathOf("configs/ranks-agree.yaml"), Run), .. more];

    private ProgramResult TrainToEnd(params string[] more) =>
        ProgramRun.ToEnd(Limit, Repository.LongNet, Arguments(more));

    // Too long to end while it is watched.
    private ProgramRun Start() => new(Repository.LongNet, Endless());

    private string[] Endless() =>
        Arguments(
            "--set",
            "training.steps=1000000",
            "--set",
            "evaluation.every_steps=0",
            "--set",
            "checkpoint.every_steps=0"
        );

    private RunLockHolder WaitForSteps(ProgramRun run)
    {
        string metrics = Path.Combine(Run, "metrics.jsonl");
        Assert.True(
            SpinWait.SpinUntil(() => run.HasExited || (File.Exists(metrics) && new FileInfo(metrics).Length > 0), Limit)
        );
        Assert.False(run.HasExited, "the run ended before it was watched");
        return RunLockHolder.Parse(LockFile.Read(LockPath))!;
    }
}
