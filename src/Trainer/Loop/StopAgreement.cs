using System.Diagnostics;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Runs;

namespace LongNet.Trainer.Loop;

/// <summary>Why a run stops before its last step.</summary>
internal enum StopReason
{
    None,
    SIGTERM,
    SIGINT,
    SIGUSR1,
    SIGUSR2,

    /// <summary><see cref="RunDirectory.StopFile"/>.</summary>
    StopFile,

    /// <summary><see cref="TrainingConfig.TimeLimitMinutes"/>.</summary>
    TimeLimit,

    /// <summary>The run directory is another run's by now: <see cref="RunLock.TakenOverBy"/>.</summary>
    TakenOver,
}

/// <summary>What all ranks know alike after a step.</summary>
/// <param name="Reason">Why the run is to stop here; none: it goes on.</param>
/// <param name="Rank">Whose reason it is; of several ranks the lowest.</param>
/// <param name="Extras">What each rank passed along, in rank order.</param>
internal sealed record StepAgreement(StopReason Reason, int Rank, byte[] Extras)
{
    public bool Stops => Reason != StopReason.None;
}

/// <summary>
/// How all ranks come to stop after the same step: because a rank received a signal, rank 0 finds the file STOP in the
/// run directory, or the program's time is over.
/// </summary>
/// <remarks>
/// The file is for whoever reaches the run directory but not the processes: "touch runs/NAME/STOP". It is removed once
/// it is obeyed, so the run goes on when it is started again. One that lies there at a start was meant for an earlier
/// run, which ended by itself or was killed before it saw the file; it is removed with a note, because nobody who
/// starts a run wants it to stop after one step.
/// </remarks>
internal sealed class StopAgreement
{
    private const int ExtraShift = 4;

    private readonly ProcessGroup world;
    private readonly RunDirectory directory;
    private readonly TimeSpan? timeLimit;
    private readonly DistributedRuntime runtime;
    private readonly StopRequest request;
    private readonly RunLock? held;

    // The system's clock may be set meanwhile.
#pragma warning disable RS0030 // To become an argument.
    private readonly TimeSpan before = DateTime.UtcNow - Process.GetCurrentProcess().StartTime.ToUniversalTime();
#pragma warning restore RS0030
    private readonly Stopwatch clock = Stopwatch.StartNew();
    private StopReason agreed;

    /// <summary>
    /// From now on signals ask for a stop: made when there is something to save, as until then they may end the
    /// program.
    /// </summary>
    /// <param name="runtime">The ranks, whose signals are deferred. Not owned.</param>
    /// <param name="held">On rank 0, what keeps other runs out of the run directory. Not owned.</param>
    public StopAgreement(
        DistributedRuntime runtime,
        RunDirectory directory,
        TrainingConfig config,
        RunLock? held = null
    )
    {
        this.runtime = runtime;
        this.directory = directory;
        this.held = held;
        world = runtime.World;
        timeLimit = config.TimeLimitMinutes is { } minutes ? TimeSpan.FromMinutes(minutes) : null;
        request = runtime.DeferSignals();
    }

    /// <summary>
    /// To be called after every step, the last one too. Collective over the world: one byte per rank.
    /// </summary>
    /// <param name="step">The step that is done, for messages.</param>
    /// <param name="extra">Below 16: what the caller wants all ranks to know of this one.</param>
    public StepAgreement AfterStep(long step, byte extra = 0)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(extra, 15);
        world.Monitor.Activity = $"step {step}: agreeing on whether to go on";
        byte[] all = ObjectCollectives.AllGather(world, [(byte)((int)OwnReason() | extra << ExtraShift)]);
        StopReason[] reasons = [.. all.Select(each => (StopReason)(each & (1 << ExtraShift) - 1))];
        int rank = Math.Max(0, Array.FindIndex(reasons, reason => reason != StopReason.None));
        agreed = reasons[rank];
        return new StepAgreement(agreed, rank, [.. all.Select(each => (byte)(each >> ExtraShift))]);
    }

    /// <summary>The agreement's reason for people, e.g. "rank 1 received SIGTERM".</summary>
    public string Explain(StepAgreement agreement)
    {
        return agreement.Reason switch
        {
            StopReason.TakenOver => "the run directory is another run's",
            StopReason.StopFile => $"there is a file {directory.StopFile}",
            StopReason.TimeLimit =>
                $"{timeLimit!.Value.TotalMinutes:0.###} minutes (training.time_limit_minutes) are over",
            _ => $"rank {agreement.Rank} received {agreement.Reason}",
        };
    }

    /// <summary>
    /// To be called once all is saved, whether the run stopped early or not: removes what asked for the stop, and the
    /// flight records that ranks wrote at a signal, because the run has ended in order. Collective over the world.
    /// </summary>
    /// <exception cref="AgreedUserException">They cannot be removed.</exception>
    public void Finish()
    {
        bool signalled = ObjectCollectives
            .AllGather(world, [request.Received is null ? (byte)0 : (byte)1])
            .Contains((byte)1);
        if (signalled)
            runtime.StopRecording();
        // Now every rank has come here, so none writes a record any more.
        RankConsensus.Run(world, () => { });
        RankConsensus.RunOnRoot(world, () =>
            (agreed == StopReason.StopFile && directory.DeleteStopFile())
            | (signalled && directory.DeleteFlightRecords())
        );
    }

    private StopReason OwnReason()
    {
        if (held?.TakenOverBy is not null)
            return StopReason.TakenOver;
        if (request.Received is { } signal)
            return Enum.Parse<StopReason>($"{signal}");
        if (world.Rank != 0)
            return StopReason.None;
        return File.Exists(directory.StopFile) ? StopReason.StopFile
            : before + clock.Elapsed >= timeLimit ? StopReason.TimeLimit
            : StopReason.None;
    }
}
