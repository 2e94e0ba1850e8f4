using System.Buffers.Binary;
using System.Diagnostics;
using System.Runtime.ExceptionServices;
using System.Security.Cryptography;
using LongNet.Core;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Checkpoints;

/// <summary>
/// Saves checkpoints behind the training loop, one at a time. The loop waits only where it would change what is still
/// being copied; digests, writing and the last rename run on other threads.
/// </summary>
/// <remarks>
/// After each step the ranks exchange how far their parts are (<see cref="CheckProgress"/>, <see cref="Advance"/>), so
/// that no rank waits for a disk and all decide alike what comes next. Where one rank writes everything, it commits the
/// checkpoint without waiting for that exchange.
/// </remarks>
internal sealed class CheckpointSaver : IDisposable
{
    private readonly ProcessGroup world;
    private readonly CheckpointStore store;
    private readonly CheckpointOptions options;
    private readonly ICheckpointEvents events;
    private readonly CheckpointWriter writer;
    private readonly StateSnapshot snapshot = new();
    private readonly Stopwatch stall = new(),
        clock = new();

    // Of the save that is running; null where none is. The first has the live tensors, which training changes.
    // The second is what is written: a copy of the first where the save is asynchronous, otherwise the first itself.
    private CheckpointPart? livePart,
        partToWrite;
    private Task snapshotDone = Task.CompletedTask;
    private Task<CheckpointFile[]>? writing;
    private Task<CommittedCheckpoint>? committing;
    private bool runHasFailed;

    /// <param name="store">The run's checkpoints.</param>
    /// <param name="world">All ranks. Not owned.</param>
    /// <param name="options">The same on all ranks.</param>
    /// <param name="events">What happens to the checkpoints.</param>
    /// <param name="files">How the disk is touched; <see cref="FileOperations.Real"/> where null.</param>
    public CheckpointSaver(
        CheckpointStore store,
        ProcessGroup world,
        CheckpointOptions options,
        ICheckpointEvents events,
        FileOperations? files = null
    )
    {
        this.store = store;
        this.world = world;
        this.options = options;
        this.events = events;
        writer = new CheckpointWriter(store, options.Retention, files ?? FileOperations.Real, events);
    }

    /// <summary>Why the last save failed; null where it did not, or is still running.</summary>
    public string? Failure { get; private set; }

    // What another thread of this rank does for the save: it commits the checkpoint or writes this rank's part. Null
    // where this rank has nothing to do for it, or nothing more.
    private Task? OwnTask => committing ?? (Task?)writing;

    /// <summary>Begins to save, after the end of a save that is still running. Collective.</summary>
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
        livePart = partToWrite = part;
        if (!part.IsEmpty || part.IsSharded)
        {
            if (options.Asynchronous)
                (partToWrite, snapshotDone) = snapshot.Take(part);
            CheckpointPart source = partToWrite;
            writing = RunInBackground(() =>
            {
                snapshotDone.Wait();
                return writer.WritePart(source);
            });
            if (!part.IsSharded)
                committing = CommitInBackground(source, writing);
        }

        stall.Stop();
        if (!options.Asynchronous)
            Finish();
    }

    /// <summary>Returns when the tensors that are being saved may change.</summary>
    public void AwaitSnapshot()
    {
        if (snapshotDone.IsCompletedSuccessfully)
            return;
        stall.Start();
        // An error of the copy is thrown where the save reads it.
        _ = Task.WhenAny(snapshotDone).Result;
        stall.Stop();
    }

    /// <summary>
    /// How far this rank is with the save, which all ranks exchange before <see cref="Advance"/>. An error of another
    /// thread that is not the disk's is thrown here.
    /// </summary>
    public SaveProgress CheckProgress()
    {
        if (OwnTask is not { } own)
            return SaveProgress.Idle;
        if (!own.IsCompleted)
            return SaveProgress.Busy;
        if (ErrorOf(own) is { } error)
        {
            if (!IsOfTheDisk(error))
                ExceptionDispatchInfo.Throw(error);
            return SaveProgress.Failed;
        }

        return committing is null ? SaveProgress.Written : SaveProgress.Committed;
    }

    /// <summary>
    /// Begins the save's next stage if no rank is busy with the one before. Otherwise it does nothing, so that no rank
    /// waits for another's disk. Collective, with the same value on all ranks.
    /// </summary>
    /// <param name="ofAllRanks">The ranks' <see cref="CheckProgress"/> together.</param>
    /// <exception cref="AgreedUserException">The checkpoint could not be written, and is required.</exception>
    public void Advance(SaveProgress ofAllRanks)
    {
        if (livePart is null || ofAllRanks == SaveProgress.Busy)
            return;
        stall.Start();
        try
        {
            if (ofAllRanks == SaveProgress.Failed)
                Fail(livePart);
            else if (ofAllRanks == SaveProgress.Written)
                CommitParts();
            else
                Complete(livePart);
        }
        finally
        {
            stall.Stop();
        }
    }

    /// <summary>Returns when no save is running any more. Collective.</summary>
    /// <exception cref="AgreedUserException">The checkpoint could not be written, and is required.</exception>
    public void Finish()
    {
        while (livePart is not null)
        {
            stall.Start();
            // The exchange has a deadline, and the disk has none: ranks that write nothing must hear from the others
            // before the deadline is over.
            OwnTask?.ContinueWith(_ => { }, TaskScheduler.Default).Wait(RankConsensus.LongestSilence(world));
            SaveProgress[] ranks =
            [
                .. ObjectCollectives
                    .AllGather(world, [(byte)CheckProgress()])
                    .Select(progress => (SaveProgress)progress),
            ];
            stall.Stop();
            Advance(ranks.OfAllRanks());
        }
    }

    /// <summary>
    /// <see cref="Finish"/> at the end of a run that has failed: a save that fails too is only reported. Collective.
    /// </summary>
    public void FinishAfterFailure()
    {
        runHasFailed = true;
        Finish();
    }

    /// <summary>Seconds that saving has delayed the loop since the last call.</summary>
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

    private static Exception? ErrorOf(Task task) => task.Exception?.Flatten().InnerExceptions[0];

    // Any other error is one of the program, and ends the job.
    private static bool IsOfTheDisk(Exception error) =>
        error is IOException or UnauthorizedAccessException or UserException;

    private Task<CommittedCheckpoint> CommitInBackground(CheckpointPart part, Task<CheckpointFile[]> files) =>
        RunInBackground(() =>
        {
            CheckpointFile[] written = files.GetAwaiter().GetResult();
            events.Committing();
            return writer.Commit(part, written, clock);
        });

    private void CommitParts()
    {
        CheckpointFile[] shards = Exchange(writing!.Result[^1]);
        if (world.Rank == 0)
            committing = CommitInBackground(
                partToWrite!,
                Task.FromResult<CheckpointFile[]>([.. writing.Result.SkipLast(1), .. shards])
            );
        writing = null;
    }

    private void Complete(CheckpointPart part)
    {
        CommittedCheckpoint? checkpoint = committing?.Result;
        Clear();
        if (checkpoint is not null)
            events.Saved(part.Manifest.Step, checkpoint);
    }

    private void Fail(CheckpointPart part)
    {
        UserException? own = CheckProgress() == SaveProgress.Failed ? FailureOf(part, ErrorOf(OwnTask!)!) : null;
        Clear();
        Failure = AgreeOnFailure(part.IsSharded, own);
        // All ranks have stopped writing.
        if (world.Rank == 0)
            writer.Abandon(part);
        if (options.Required && !runHasFailed)
            throw new AgreedUserException(
                $"{Failure} It is required (checkpoint.required): free space or mend permissions, then go "
                    + "on with --resume auto."
            );
        if (world.Rank == 0)
            events.Failed(Failure, trainingContinues: !runHasFailed);
    }

    private UserException FailureOf(CheckpointPart part, Exception error) =>
        new(
            $"The checkpoint of step {part.Manifest.Step} cannot be written to {store.Folder}: "
                + $"{error.Message.TrimEnd('.')}. Older checkpoints are untouched."
        );

    // Gives every rank the message of the lowest rank that failed. Of a part that only rank 0 writes, it is rank 0's.
    private string AgreeOnFailure(bool isShared, UserException? own)
    {
        try
        {
            if (isShared)
                RankConsensus.Run(world, ThrowOwn);
            else
                RankConsensus.RunOnRoot(world, ThrowOwn);
        }
        catch (AgreedUserException agreed)
        {
            return agreed.Message;
        }

        throw new UnreachableException("No rank has the failure that one has reported.");

        void ThrowOwn()
        {
            if (own is not null)
                throw own;
        }
    }

    private void Clear()
    {
        livePart = partToWrite = null;
        writing = null;
        committing = null;
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
