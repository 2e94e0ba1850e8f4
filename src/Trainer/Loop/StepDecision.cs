using LongNet.Trainer.Checkpoints;

namespace LongNet.Trainer.Loop;

/// <summary>What all ranks do after a step. Every rank derives the same decision from the votes of all.</summary>
/// <param name="Reason">Why the run stops here; none: it continues.</param>
/// <param name="Rank">Whose reason it is; of several ranks the lowest.</param>
/// <param name="SaveNow">Whether rank 0's clock asks for a checkpoint.</param>
/// <param name="Saving">How far the current checkpoint is over all ranks.</param>
internal sealed record StepDecision(StopReason Reason, int Rank, bool SaveNow, SaveProgress Saving)
{
    public bool Stops => Reason != StopReason.None;

    /// <param name="votes">In rank order.</param>
    public static StepDecision Of(IReadOnlyList<StepVote> votes)
    {
        int rank = Enumerable.Range(0, votes.Count).FirstOrDefault(rank => votes[rank].Stop != StopReason.None);
        return new StepDecision(
            votes[rank].Stop,
            rank,
            votes[0].SaveIsDue,
            votes.Select(vote => vote.Saving).ToHashSet().OfAllRanks()
        );
    }
}
