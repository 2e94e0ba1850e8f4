using System.Buffers.Binary;
using System.Diagnostics;
using System.Runtime.ExceptionServices;
using System.Security.Cryptography;
using LongNet.Core;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Checkpoints;

/// <summary>
/// Saves checkpoints behind the training loop, one at a time. The loop is held up only where it would change what is
/// still being copied; digests, writing and the last rename run on other threads.
/// </summary>
/// <remarks>
/// Ranks tell each other one number per step of how far their part is (<see cref="Status"/>, <see cref="Advance"/>), so
/// that nobody waits for a disk, and decide alike what comes next. With one writing rank, the checkpoint is whole
/// without anybody's word.
/// </remarks>
internal sealed class CheckpointSaver : IDisposable
{
    private readonly ProcessGroup world;
    private readonly CheckpointStore store;
    private readonly CheckpointOptions options;
    private readonly CheckpointWriter writer;
    private readonly StateSnapshot snapshot = new();
    private readonly Stopwatch stall = new(),
        clock = new();

    private CheckpointPart? pending,
        live;
    private Task snapshotDone = Task.CompletedTask;
    private Task<CheckpointFile[]>? writing;
    private Task<CommittedCheckpoint>? committing;

    /// <param name="store">The run's checkpoints.</param>
    /// <param name="world">All ranks. Not owned.</param>
    /// <param name="options">Alike on all ranks.</param>
    public CheckpointSaver(CheckpointStore store, ProcessGroup world, CheckpointOptions options)
        : this(store, world, options, FileOperations.Real) { }

    internal CheckpointSaver(CheckpointStore store, ProcessGroup world, CheckpointOptions options, FileOperations files)
    {
        this.store = store;
        this.world = world;
        this.options = options;
        writer = new CheckpointWriter(store, options.Retention, files);
    }

    private enum Progress : byte
    {
        /// <summary>Nothing of this rank's is awaited.</summary>
        Idle,

        /// <summary>Being written, or made a checkpoint.</summary>
        Busy,

        /// <summary>This rank's part is on the disk; the checkpoint is whole only when all are.</summary>
        Written,

        /// <summary>The checkpoint is whole.</summary>
        Whole,
        Failed,
    }

    /// <summary>
    /// Called on rank 0 before a checkpoint becomes whole, from another thread: what must be on the disk before it.
    /// </summary>
    public Action? BeforeCommit { get; set; }

    /// <summary>
    /// Called on every rank that writes, after each file of tensors, from another thread: with the checkpoint's step.
    /// </summary>
    public Action<long>? FileWritten
    {
        get => writer.FileWritten;
        set => writer.FileWritten = value;
    }

    /// <summary>Called on rank 0, in the loop, when a checkpoint is whole: its step and its folder.</summary>
    public Action<long, CommittedCheckpoint>? Saved { get; set; }

    /// <summary>Called on rank 0, in the loop, when one could not be written and the run goes on.</summary>
    public Action<string>? Failed { get; set; }

    /// <summary>Why the last save came to nothing; null where it did not, or is under way.</summary>
    public string? Failure { get; private set; }

    /// <summary>
    /// How far this rank's part is: a number below 8 that all ranks hand to <see cref="Advance"/> on all ranks.
    /// </summary>
    public byte Status => (byte)Current();

    /// <summary>Begins to save, after the end of a save that is still under way. Collective.</summary>
    /// <param name="part">
    /// This rank's. Its tensors must not change before <see cref="AwaitSnapshot"/> has returned.
    /// </param>
    /// <exception cref="AgreedUserException">An earlier checkpoint could not be written, and is required.</exception>
    public void Start(CheckpointPart part)
    {
        Finish();
        stall.Start();
        clock.Restart();
        Failure = null;
        pending = live = part;
        if (!part.IsEmpty || part.IsShared)
        {
            if (options.Asynchronous)
                (live, snapshotDone) = snapshot.Take(part);
            CheckpointPart copy = live;
            writing = RunInBackground(() =>
            {
                snapshotDone.Wait();
                return writer.WritePart(copy);
            });
            if (!part.IsShared)
                committing = CommitBehind(copy, writing);
        }

        stall.Stop();
        if (!options.Asynchronous)
            Finish();
    }

    /// <summary>Returns when what is being saved may change.</summary>
    public void AwaitSnapshot()
    {
        if (snapshotDone.IsCompletedSuccessfully)
            return;
        stall.Start();
        // An error is the save's, and comes up there.
        _ = Task.WhenAny(snapshotDone).Result;
        stall.Stop();
    }

    /// <summary>
    /// Takes the save further, as far as nobody need be waited for. Collective, with the same bytes on all ranks.
    /// </summary>
    /// <param name="statuses">Every rank's <see cref="Status"/>.</param>
    /// <exception cref="AgreedUserException">The checkpoint could not be written, and is required.</exception>
    public void Advance(IReadOnlyList<byte> statuses)
    {
        bool Any(Progress progress) => statuses.Contains((byte)progress);
        if (pending is null || Any(Progress.Busy))
            return;
        stall.Start();
        try
        {
            if (Any(Progress.Failed))
                Fail();
            else if (Any(Progress.Written))
                CommitParts();
            else
                Done();
        }
        finally
        {
            stall.Stop();
        }
    }

    /// <summary>Returns when no save is under way any more. Collective.</summary>
    /// <exception cref="AgreedUserException">The checkpoint could not be written, and is required.</exception>
    public void Finish()
    {
        while (pending is not null)
        {
            stall.Start();
            // Ranks that write nothing wait in the exchange, which has a deadline, and the disk has none.
            Task? own = committing ?? (Task?)writing;
            own?.ContinueWith(_ => { }, TaskScheduler.Default).Wait(RankConsensus.Patience(world));
            byte[] statuses = ObjectCollectives.AllGather(world, [Status]);
            stall.Stop();
            Advance(statuses);
        }
    }

    /// <summary>
    /// The same at the end of a run that has failed: a save that fails too is told beside that. Collective.
    /// </summary>
    public void EndWithoutFailing()
    {
        try
        {
            Finish();
        }
        catch (AgreedUserException)
        {
            if (world.Rank == 0)
                Failed?.Invoke(Failure!);
        }
    }

    /// <summary>Seconds that saving has held up the loop since this was last asked.</summary>
    public double TakeStallSeconds()
    {
        double seconds = stall.Elapsed.TotalSeconds;
        if (stall.IsRunning)
            stall.Restart();
        else
            stall.Reset();
        return seconds;
    }

    /// <summary>Waits for this rank's threads. A save that is not finished by then is not a checkpoint.</summary>
    public void Dispose()
    {
        Task.WhenAny(Task.WhenAll(snapshotDone, writing ?? Task.CompletedTask, committing ?? Task.CompletedTask))
            .Wait();
        snapshot.Dispose();
    }

    // A thread of its own, as it waits for the disk.
    private static Task<T> RunInBackground<T>(Func<T> work) =>
        Task.Factory.StartNew(work, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);

    private static bool IsOfTheDisk(Exception error) =>
        error is IOException or UnauthorizedAccessException or UserException;

    private Task<CommittedCheckpoint> CommitBehind(CheckpointPart part, Task<CheckpointFile[]> files) =>
        RunInBackground(() =>
        {
            CheckpointFile[] written = files.GetAwaiter().GetResult();
            BeforeCommit?.Invoke();
            return writer.Commit(part, written, clock);
        });

    private Progress Current()
    {
        if ((committing ?? (Task?)writing) is not { } own)
            return Progress.Idle;
        if (!own.IsCompleted)
            return Progress.Busy;
        if (own.Exception?.Flatten().InnerExceptions is [var error, ..])
        {
            // A mistake of the program, not of the disk.
            if (!IsOfTheDisk(error))
                ExceptionDispatchInfo.Throw(error);
            return Progress.Failed;
        }

        return committing is null ? Progress.Written : Progress.Whole;
    }

    private void CommitParts()
    {
        CheckpointFile[] shards = Exchange(writing!.Result[^1]);
        if (world.Rank == 0)
            committing = CommitBehind(
                live!,
                Task.FromResult<CheckpointFile[]>([.. writing.Result.SkipLast(1), .. shards])
            );
        writing = null;
    }

    private void Done()
    {
        CheckpointPart whole = End();
        if (world.Rank == 0)
        {
            CommittedCheckpoint checkpoint = committing!.Result;
            committing = null;
            Saved?.Invoke(whole.Manifest.Step, checkpoint);
        }
    }

    private void Fail()
    {
        string? own =
            Current() == Progress.Failed
                ? (committing ?? (Task?)writing)!.Exception!.Flatten().InnerExceptions[0].Message.TrimEnd('.')
                : null;
        CheckpointPart failed = End();
        committing = null;
        long step = failed.Manifest.Step;
        void Tell()
        {
            if (own is not null)
                throw new UserException(
                    $"The checkpoint of step {step} cannot be written to {store.Folder}: {own}. Older "
                        + "checkpoints are untouched."
                );
        }

        try
        {
            if (failed.IsShared)
            {
                RankConsensus.Run(world, Tell);
            }
            else
            {
                RankConsensus.RunOnRoot(world, () =>
                {
                    Tell();
                    return true;
                });
            }
        }
        catch (AgreedUserException told)
        {
            Failure = told.Message;
        }

        // All ranks have stopped writing.
        if (world.Rank == 0)
            writer.Abandon(failed);
        if (options.Required)
            throw new AgreedUserException(
                $"{Failure} It is required (checkpoint.required): free space or mend permissions, then go "
                    + "on with --resume auto."
            );
        if (world.Rank == 0)
            Failed?.Invoke(Failure!);
    }

    private CheckpointPart End()
    {
        CheckpointPart part = pending!;
        pending = live = null;
        writing = null;
        return part;
    }

    // Size and digest of every rank's shard.
    private CheckpointFile[] Exchange(CheckpointFile own)
    {
        var bytes = new byte[sizeof(long) + SHA256.HashSizeInBytes];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, own.Bytes);
        Convert.FromHexString(own.Sha256).CopyTo(bytes, sizeof(long));
        return
        [
            .. ObjectCollectives
                .AllGather(world, bytes)
                .Chunk(bytes.Length)
                .Select(
                    (shard, rank) =>
                        new CheckpointFile(
                            OptimizerShard.FileName(rank, world.Size),
                            BinaryPrimitives.ReadInt64LittleEndian(shard),
                            Convert.ToHexStringLower(shard.AsSpan(sizeof(long)))
                        )
                ),
        ];
    }
}
