using LongNet.Core;
using LongNet.Core.Native;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Launch;
using LongNet.Distributed.Lifetime;

namespace LongNet.Trainer;

/// <summary>
/// Runs a command on every rank and ends it on all of them: an error that all ranks agree on is reported once, by rank
/// 0, with exit code 2; an error of one rank is reported by that rank and ends the job.
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

    /// <summary>Runs a command that either succeeds or throws.</summary>
    /// <inheritdoc cref="Run(Func{DistributedRuntime, int}, Func{RankEnvironment?, UserException, int}?)"/>
    public static int Run(
        Action<DistributedRuntime> command,
        Func<RankEnvironment?, UserException, int>? notStarted = null
    ) =>
        Run(
            runtime =>
            {
                command(runtime);
                return 0;
            },
            notStarted
        );

    /// <summary>Runs a command that has exit codes of its own.</summary>
    /// <param name="command">What runs on every rank; returns the exit code.</param>
    /// <param name="notStarted">What a rank does instead of reporting the error, where libtorch or MPI cannot be
    /// started; returns the exit code.</param>
    /// <returns>The exit code.</returns>
    public static int Run(
        Func<DistributedRuntime, int> command,
        Func<RankEnvironment?, UserException, int>? notStarted = null
    )
    {
        RankEnvironment? environment = null;
        DistributedRuntime runtime;
        try
        {
            environment = RankEnvironment.FromProcess();
            LibTorch.Load();
            runtime = DistributedRuntime.Start(environment);
        }
        catch (UserException error)
        {
            return notStarted is null ? NotStarted(environment, error) : notStarted(environment, error);
        }

        return Run(runtime, command);
    }

    /// <summary>
    /// Runs a command that only looks at files: only rank 0 does, the others end at once, and MPI is not loaded.
    /// </summary>
    /// <param name="command">Returns the exit code.</param>
    public static int RunOnRoot(Func<int> command)
    {
        try
        {
            return RankEnvironment.FromProcess().IsRoot ? command() : 0;
        }
        catch (Exception error) when (error is UserException or IOException or UnauthorizedAccessException)
        {
            Report(error.Message);
            return UserError;
        }
    }

    // Of an error that all ranks agree on, rank 0 reports. Else no rank can ask another yet, so one per machine does.
    private static int NotStarted(RankEnvironment? environment, UserException error)
    {
        bool reports =
            error is AgreedUserException ? environment!.IsRoot : environment is null || environment.LocalRank == 0;
        bool namesRank = error is not AgreedUserException && environment is { Rank: > 0 };
        if (reports)
            Report(namesRank ? $"rank {environment!.Rank}: {error.Message}" : error.Message);
        return UserError;
    }

    private static int Run(DistributedRuntime runtime, Func<DistributedRuntime, int> command)
    {
        try
        {
            int code = command(runtime);
            runtime.Dispose();
            return code;
        }
        catch (AgreedUserException error)
        {
            if (runtime.Environment.IsRoot)
                Report(error.Message);
            runtime.Dispose();
            return UserError;
        }
        // A filter, because it runs while the command is still on the stack. A catch block would run after the
        // command's usings, whose Dispose waits in collectives for ranks that do not come.
        catch (UserException error) when (EndJob(runtime, error))
        {
            Report(error.Message);
            return UserError;
        }
    }

    // Ends the process with those of all ranks; returns, with true, only where no launcher has started it.
    private static bool EndJob(DistributedRuntime runtime, UserException error)
    {
        runtime.Fail(error, error is CollectiveException ? CollectiveFailed : UserError);
        return true;
    }

    private static void Report(string message)
    {
        Console.Out.Flush();
        Console.Error.WriteLine($"longnet: {message}");
        Console.Error.Flush();
    }
}
