using LongNet.Core;
using LongNet.Core.Native;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Launch;
using LongNet.Distributed.Lifetime;

namespace LongNet.Trainer;

/// <summary>
/// Runs a command on every rank and ends it on all of them: a mistake that all ranks see is told once, by rank 0, with
/// exit code 2; an error of one rank is told by it and ends the job.
/// </summary>
internal static class RankProgram
{
    public const int UserError = ExitCode.UserError;

    /// <summary>
    /// Exit code, on every rank, of a run that was asked to stop before its last step, and saved a checkpoint: start it
    /// again with --resume auto. It is EX_TEMPFAIL of sysexits.h.
    /// </summary>
    public const int StoppedEarly = ExitCode.StoppedEarly;

    private const int CollectiveFailed = ExitCode.Error;

    /// <param name="command">What runs on every rank.</param>
    /// <param name="notStarted">What a rank does instead of telling the mistake, where libtorch or MPI cannot be
    /// started; returns the exit code.</param>
    public static int Run(
        Action<DistributedRuntime> command,
        Func<RankEnvironment?, UserException, int>? notStarted = null
    )
    {
        DistributedRuntime runtime;
        RankEnvironment? environment = null;
        try
        {
            environment = RankEnvironment.FromProcess();
            LibTorch.Load();
            runtime = DistributedRuntime.Start(environment);
        }
        catch (UserException mistake) when (notStarted is not null)
        {
            return notStarted(environment, mistake);
        }
        catch (AgreedUserException mistake)
        {
            if (environment!.IsRoot)
                Tell(mistake.Message);
            return UserError;
        }
        catch (UserException mistake)
        {
            // No rank can ask another yet, so one rank per machine speaks.
            if (environment is null || environment.LocalRank == 0)
                Tell(environment is { Rank: > 0 } ? $"rank {environment.Rank}: {mistake.Message}" : mistake.Message);
            return UserError;
        }

        try
        {
            command(runtime);
            runtime.Dispose();
            return 0;
        }
        catch (AgreedUserException mistake)
        {
            if (runtime.Environment.IsRoot)
                Tell(mistake.Message);
            runtime.Dispose();
            return UserError;
        }
        catch (UserException mistake) when (EndsTheJob(runtime, mistake))
        {
            Tell(mistake.Message);
            return UserError;
        }
    }

    /// <summary>
    /// Runs a command that only looks at files: rank 0 alone does, the others end at once, and MPI is not loaded.
    /// </summary>
    /// <param name="command">Returns the exit code.</param>
    public static int RunOnRoot(Func<int> command)
    {
        try
        {
            return RankEnvironment.FromProcess().IsRoot ? command() : 0;
        }
        catch (Exception mistake) when (mistake is UserException or IOException or UnauthorizedAccessException)
        {
            Tell(mistake.Message);
            return UserError;
        }
    }

    // In the filter, before anything is disposed: that is collective, and the other ranks do not come.
    private static bool EndsTheJob(DistributedRuntime runtime, UserException mistake)
    {
        runtime.Fail(mistake, mistake is CollectiveException ? CollectiveFailed : UserError);
        return true;
    }

    private static void Tell(string message)
    {
        Console.Out.Flush();
        Console.Error.WriteLine($"longnet: {message}");
        Console.Error.Flush();
    }
}
