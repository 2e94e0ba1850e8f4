namespace LongNet.Distributed.Lifetime;

/// <summary>Exit codes of a rank, which its launcher passes on.</summary>
public static class ExitCode
{
    /// <summary>The program finished.</summary>
    public const int Success = 0;

    /// <summary>An error of the program, of a collective or of the machine.</summary>
    public const int Error = 1;

    /// <summary>An error of the user, such as a wrong key of the configuration.</summary>
    public const int UserError = 2;

    /// <summary>
    /// A run was asked to stop before its last step, and saved a checkpoint: it continues when it is started again. It
    /// is EX_TEMPFAIL of sysexits.h.
    /// </summary>
    public const int StoppedEarly = 75;

    /// <summary>A rank left without <see cref="DistributedRuntime.Dispose"/>.</summary>
    public const int RankLeft = 86;

    /// <summary>A collective did not finish in time.</summary>
    public const int CollectiveTimeout = 87;

    /// <summary>A signal ended the rank: 128 and its number, as shells have it.</summary>
    internal static int OfSignal(int number) => 128 + number;
}
