using System.Runtime.CompilerServices;
using LongNet.Core;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// Makes an error of the user that only some ranks see (a missing file on one machine) end the program on all ranks
/// alike. Messages about a rank that does not come name the caller of these methods.
/// </summary>
public static class RankConsensus
{
    /// <summary>
    /// Runs the action on every rank; returns only if no rank threw a <see cref="UserException"/>. Collective. The
    /// action itself must not communicate, because a rank that throws would leave the others waiting.
    /// </summary>
    /// <exception cref="AgreedUserException">
    /// On every rank, with the message of the lowest rank that failed, and its number where not all did.
    /// </exception>
    public static void Run(
        ProcessGroup group,
        Action action,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        ArgumentNullException.ThrowIfNull(action);
        Run(group, AsFunction(action), file, line);
    }

    /// <inheritdoc cref="Run(ProcessGroup, Action, string, int)"/>
    /// <returns>What the function returned on this rank.</returns>
    public static T Run<T>(
        ProcessGroup group,
        Func<T> function,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) => Run(group, function, namesRank: true, file, line);

    /// <summary>
    /// Runs the action on rank 0 only, for what one process does on behalf of all, such as files. Collective.
    /// </summary>
    /// <exception cref="AgreedUserException">On every rank, with the message of rank 0's
    /// <see cref="UserException"/>.</exception>
    public static void RunOnRoot(
        ProcessGroup group,
        Action action,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        ArgumentNullException.ThrowIfNull(action);
        RunOnRoot(group, AsFunction(action), file, line);
    }

    /// <inheritdoc cref="RunOnRoot(ProcessGroup, Action, string, int)"/>
    /// <returns>What the function returned on rank 0; the default on other ranks.</returns>
    public static T? RunOnRoot<T>(
        ProcessGroup group,
        Func<T> function,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        ArgumentNullException.ThrowIfNull(group);
        ArgumentNullException.ThrowIfNull(function);
        return Run(group, () => group.Rank == 0 ? function() : default, namesRank: false, file, line);
    }

    /// <summary>
    /// As <see cref="RunOnRoot{T}"/>, for what may take longer than ranks wait for each other, such as reading a
    /// complete checkpoint: meanwhile the ranks meet in collectives. The function runs on its own thread. Collective.
    /// </summary>
    /// <inheritdoc cref="RunOnRoot{T}"/>
    public static T? RunSlowOnRoot<T>(
        ProcessGroup group,
        Func<T> function,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        ArgumentNullException.ThrowIfNull(group);
        ArgumentNullException.ThrowIfNull(function);
        if (group.Size == 1)
            return RunOnRoot(group, function, file, line);
        Task<T>? work = group.Rank == 0 ? StartThread(function) : null;
        byte[] done;
        do
        {
            work?.ContinueWith(_ => { }, TaskScheduler.Default).Wait(LongestSilence(group));
            done = [work?.IsCompleted == true ? (byte)1 : (byte)0];
            done = ObjectCollectives.Broadcast(group, done, 0, file, line);
        } while (done is not [1]);
        return RunOnRoot(group, () => work!.GetAwaiter().GetResult(), file, line);
    }

    /// <summary>
    /// The longest that a rank with slow work should let others wait for it in a collective: a fraction of the timeout
    /// that would end the job.
    /// </summary>
    public static TimeSpan LongestSilence(ProcessGroup group)
    {
        ArgumentNullException.ThrowIfNull(group);
        return group.Monitor.Timeout / 4;
    }

    private static T Run<T>(ProcessGroup group, Func<T> function, bool namesRank, string file, int line)
    {
        ArgumentNullException.ThrowIfNull(group);
        ArgumentNullException.ThrowIfNull(function);
        UserException? own = null;
        T result = default!;
        try
        {
            result = function();
        }
        catch (UserException error)
        {
            own = error;
        }

        // Where no rank failed, this byte per rank is all that is sent.
        byte[] failed = ObjectCollectives.AllGather(group, [own is null ? (byte)0 : (byte)1], file, line);
        int first = Array.IndexOf(failed, (byte)1);
        if (first < 0)
            return result;
        string? ofFirst = group.Rank == first ? own!.Message : null;
        string message = ObjectCollectives.BroadcastText(group, ofFirst, first, file, line);
        bool onAll = Array.TrueForAll(failed, status => status == 1);
        throw new AgreedUserException(onAll || !namesRank ? message : $"Rank {first}: {message}", own);
    }

    private static Func<bool> AsFunction(Action action) =>
        () =>
        {
            action();
            return true;
        };

    private static Task<T> StartThread<T>(Func<T> function) =>
        Task.Factory.StartNew(function, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
}
