using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.Trainer.Runs;

namespace LongNet.Trainer.Loop;

/// <summary>
/// How all ranks decide alike after each step: whether the run stops, whether a checkpoint is due, and how far the
/// current one is. The run stops because a rank received a signal, rank 0 finds the file STOP in the run directory, or
/// the program's time is over.
/// </summary>
/// <remarks>
/// The file is for people who reach the run directory but not the processes: "touch runs/NAME/STOP". The run removes it
/// when it stops, so that it continues when it is started again. A file that is there at the start was meant for an
/// earlier run, which ended by itself or was killed before it saw the file; it is removed with a note, because nobody
/// who starts a run wants it to stop after one step.
/// </remarks>
internal sealed class StepConsensus
{
    private readonly ProcessGroup world;
    private readonly RunDirectory directory;
    private readonly TimeLimit timeLimit;
    private readonly DistributedRuntime runtime;
    private readonly StopRequest request;
    private readonly RunLock? runLock;
    private StopReason decided;

    /// <summary>
    /// From now on signals ask for a stop, instead of ending the program: construct it once there is something to save.
    /// </summary>
    /// <param name="runtime">The ranks, whose signals are deferred. Not owned.</param>
    /// <param name="directory">The run directory.</param>
    /// <param name="timeLimit">Rank 0's decides.</param>
    /// <param name="runLock">On rank 0, what keeps other runs out of the run directory. Not owned.</param>
    public StepConsensus(
        DistributedRuntime runtime,
        RunDirectory directory,
        TimeLimit timeLimit,
        RunLock? runLock = null
    )
    {
        this.runtime = runtime;
        this.directory = directory;
        this.timeLimit = timeLimit;
        this.runLock = runLock;
        world = runtime.World;
        request = runtime.DeferSignals();
    }

    /// <summary>Why this rank wants the run to stop.</summary>
    public StopReason OwnReason()
    {
        // The lock's state is that of its last check: before the step's metrics were written, or its last heartbeat.
        if (runLock?.TakenOverBy is not null)
            return StopReason.TakenOver;
        if (request.Received is { } signal)
            return ReasonOf(signal);
        if (world.Rank != 0)
            return StopReason.None;
        return File.Exists(directory.StopFile) ? StopReason.StopFile
            : timeLimit.IsOver ? StopReason.TimeLimit
            : StopReason.None;
    }

    /// <summary>
    /// Makes one decision of all ranks' votes. To be called after every step, the last one too. Collective over the
    /// world: one byte per rank.
    /// </summary>
    /// <param name="step">The step that is done, for messages.</param>
    /// <param name="own">This rank's vote.</param>
    public StepDecision Decide(long step, StepVote own)
    {
        world.Monitor.Activity = $"step {step}: agreeing on whether to go on";
        StepVote[] votes = [.. ObjectCollectives.AllGather(world, [own.Pack()]).Select(StepVote.Unpack)];
        var decision = StepDecision.Of(votes);
        decided = decision.Reason;
        return decision;
    }

    /// <summary>The decision's reason for people, e.g. "rank 1 received SIGTERM".</summary>
    public string Explain(StepDecision decision) =>
        decision.Reason switch
        {
            StopReason.TakenOver => "the run directory is another run's",
            StopReason.StopFile => $"there is a file {directory.StopFile}",
            StopReason.TimeLimit => $"{timeLimit.Minutes:0.###} minutes (training.time_limit_minutes) are over",
            _ => $"rank {decision.Rank} received {decision.Reason}",
        };

    /// <summary>
    /// To be called once all is saved, whether the run stopped early or not: removes the file that asked for the stop,
    /// and the flight records that ranks wrote at a signal, because the run has ended in order. Collective over the
    /// world.
    /// </summary>
    /// <exception cref="AgreedUserException">They cannot be removed.</exception>
    public void CleanUp()
    {
        bool signalled = ObjectCollectives
            .AllGather(world, [request.Received is null ? (byte)0 : (byte)1])
            .Contains((byte)1);
        if (signalled)
            runtime.StopRecording();
        // After it no rank writes a flight record any more.
        world.Barrier();
        RankConsensus.RunOnRoot(world, () =>
        {
            if (decided == StopReason.StopFile)
                directory.DeleteStopFile();
            if (signalled)
                directory.DeleteFlightRecords();
        });
    }

    private static StopReason ReasonOf(StopSignal signal) =>
        signal switch
        {
            StopSignal.SIGTERM => StopReason.SIGTERM,
            StopSignal.SIGINT => StopReason.SIGINT,
            StopSignal.SIGUSR1 => StopReason.SIGUSR1,
            StopSignal.SIGUSR2 => StopReason.SIGUSR2,
            _ => throw new ArgumentOutOfRangeException(nameof(signal), signal, null),
        };
}
