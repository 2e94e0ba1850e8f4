using LongNet.Trainer.Checkpoints;

namespace LongNet.Trainer.Loop;

/// <summary>What one rank contributes to the <see cref="StepDecision"/> after a step. Travels as one byte.</summary>
/// <param name="Stop">Why this rank wants the run to stop; none: it wants to continue.</param>
/// <param name="Saving">How far this rank's part of the current checkpoint is.</param>
/// <param name="SaveIsDue">
/// Whether the next checkpoint is due by this rank's clock. Every rank sends it, but only rank 0's counts, because
/// clocks differ.
/// </param>
internal readonly record struct StepVote(
    StopReason Stop,
    SaveProgress Saving = SaveProgress.Idle,
    bool SaveIsDue = false
)
{
    // Bits 0-3: the reason; bits 4-6: the progress; bit 7: whether a save is due.
    private const int SavingShift = 4,
        SaveIsDueShift = 7,
        StopMask = (1 << SavingShift) - 1,
        SavingMask = (1 << (SaveIsDueShift - SavingShift)) - 1;

    public byte Pack() => (byte)((int)Stop | (int)Saving << SavingShift | (SaveIsDue ? 1 : 0) << SaveIsDueShift);

    public static StepVote Unpack(byte packed) =>
        new(
            (StopReason)(packed & StopMask),
            (SaveProgress)(packed >> SavingShift & SavingMask),
            packed >> SaveIsDueShift == 1
        );
}
