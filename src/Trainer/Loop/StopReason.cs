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

    /// <summary>There is a <see cref="RunDirectory.StopFile"/>.</summary>
    StopFile,

    /// <summary><see cref="TrainingConfig.TimeLimitMinutes"/> are over.</summary>
    TimeLimit,

    /// <summary>The run directory belongs to another run now: <see cref="RunLock.TakenOverBy"/>.</summary>
    TakenOver,
}
